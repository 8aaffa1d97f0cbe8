"""Gathers the facts that ``cafs doctor`` judges. Reads, and has mounts tried; changes nothing.

Every question that cannot be answered has an answer that says so: a doctor must not fall ill.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from cafs.core.settings import Settings
from cafs.fuse.mountinfo import read_mounts
from cafs.node.machine_facts import CacheFacts, Facts, FuseFacts, KernelFacts, Support, kernel_version
from cafs.node.mount_trials import try_mounts
from cafs.node.service_survey import survey_containerd
from cafs.store.location import store_directory


def survey(settings: Settings, containerd_config: Path | None = None) -> Facts:
    """Look at this machine; at containerd as a configuration sets it up, None: its usual one."""
    is_root = os.geteuid() == 0
    fuse = _fuse()
    usable = not fuse.device and (is_root or fuse.helper_setuid)
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return Facts(
        is_root=is_root,
        kernel=_kernel(),
        fuse=fuse,
        trials=try_mounts(fuse=usable, is_root=is_root),
        cache=_cache(settings.cache_dir),
        quota_bytes=settings.store_quota_bytes,
        address_space_bytes=None if address_space == resource.RLIM_INFINITY else address_space,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        user_namespaces=_user_namespaces(),
        containerd=survey_containerd(containerd_config, settings),
    )


def _kernel() -> KernelFacts:
    release = os.uname().release
    filesystems = _text("/proc/filesystems").split()
    modules = Path("/lib/modules", release)
    known = _text(modules / "modules.dep") + _text(modules / "modules.builtin")

    def support(name: str, loaded: bool) -> Support:
        if loaded:
            return Support.YES
        return Support.MODULE if f"/{name}.ko" in known else Support.NO

    return KernelFacts(
        release=release,
        version=kernel_version(release),
        fuse=support("fuse", "fuse" in filesystems),
        erofs=support("erofs", "erofs" in filesystems),
        overlay=support("overlay", "overlay" in filesystems),
    )


def _fuse() -> FuseFacts:
    problem = ""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        problem = e.strerror or str(e)
    helper = shutil.which("fusermount3")
    setuid = helper is not None and bool(Path(helper).stat().st_mode & stat.S_ISUID)
    return FuseFacts(problem, helper, setuid)


def _cache(path: Path) -> CacheFacts:
    existing, problem = _nearest(path)
    status = os.statvfs(existing)
    if not problem:
        problem = _why_not_writable(existing) if existing.is_dir() else f"{existing} is not a directory"
    used = 0 if problem else _blocks_below(store_directory(path))
    return CacheFacts(str(path), filesystem_of(existing), status.f_bavail * status.f_frsize, used, problem)


def _blocks_below(folder: Path) -> int:
    """Bytes that its files take of the disk. They may come and go meanwhile."""
    used = 0
    for file in folder.glob("**/*"):
        with suppress(OSError):
            used += file.lstat().st_blocks * 512
    return used


def _nearest(path: Path) -> tuple[Path, str]:
    """What there is of a path, and why one may not look at the rest."""
    problem = ""
    for parent in (path, *path.parents):
        try:
            parent.stat()
        except PermissionError as e:
            problem = e.strerror or str(e)
        except OSError:
            continue  # it is not there, or no directory is where one would be
        else:
            break
    return parent, problem


def _why_not_writable(directory: Path) -> str:
    """Tried: by their modes root may write everywhere, also in /proc and on a read-only disk."""
    try:
        try:
            os.close(os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        except OSError as e:
            if e.errno not in {errno.EOPNOTSUPP, errno.EISDIR}:
                raise
            # A filesystem without nameless files. EISDIR: open(2), of kernels that know none at all.
            Path(tempfile.mkdtemp(prefix=".cafs-doctor-", dir=directory)).rmdir()
    except OSError as e:
        return e.strerror or str(e)
    return ""


def filesystem_of(path: Path) -> str:
    """The type of the filesystem a path lies on, from /proc/self/mountinfo (proc(5))."""
    above = {str(parent) for parent in (path.resolve(), *path.resolve().parents)}
    best, kind = "", "unknown"
    for mounted in read_mounts():
        # Of two mounts on one point the later one is seen.
        if mounted.point in above and len(mounted.point) >= len(best):
            best, kind = mounted.point, mounted.kind
    return kind


def _user_namespaces() -> int:
    if _text("/proc/sys/kernel/unprivileged_userns_clone").strip() == "0":
        return 0
    text = _text("/proc/sys/user/max_user_namespaces").strip()
    return int(text) if text.isdigit() else 0


def _text(path: str | Path) -> str:
    """A file's text; "" where there is none to read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
