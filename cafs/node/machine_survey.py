"""Gathers the facts that ``cafs doctor`` judges. Reads, and tries two mounts as root; changes nothing.

Every question that cannot be answered has an answer that says so: a doctor must not fall ill.
"""

from __future__ import annotations

import glob
import os
import re
import resource
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from cafs.core.settings import Settings
from cafs.errors import UsageError
from cafs.fuse.syscalls import MountFlag, mount, unmount
from cafs.index.layout import IndexLayout
from cafs.index.metadata import MetadataEncoder
from cafs.index.tree import LayerTree
from cafs.node.containerd_config import imports_of, parse_containerd_config
from cafs.node.machine_facts import CacheFacts, ContainerdFacts, Facts, FuseFacts, KernelFacts, Support

_CONTAINERD_CONFIG = Path("/etc/containerd/config.toml")


def survey(settings: Settings) -> Facts:
    """Look at this machine."""
    is_root = os.geteuid() == 0
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    return Facts(
        is_root=is_root,
        kernel=_kernel(is_root),
        fuse=_fuse(),
        cache=_cache(settings.cache_dir),
        quota_bytes=settings.store_quota_bytes,
        address_space_bytes=None if address_space == resource.RLIM_INFINITY else address_space,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        user_namespaces=_user_namespaces(),
        containerd=_containerd(),
    )


def _kernel(is_root: bool) -> KernelFacts:
    release = os.uname().release
    numbers = re.match(r"(\d+)\.(\d+)", release)
    filesystems = _text("/proc/filesystems").split()
    modules = Path("/lib/modules", release)
    known = _text(modules / "modules.dep") + _text(modules / "modules.builtin")

    def support(name: str, loaded: bool) -> Support:
        if loaded:
            return Support.YES
        return Support.MODULE if f"/{name}.ko" in known else Support.NO

    return KernelFacts(
        release=release,
        version=(int(numbers[1]), int(numbers[2])) if numbers else (0, 0),
        fuse=support("fuse", "fuse" in filesystems),
        erofs=support("erofs", "erofs" in filesystems),
        overlay=support("overlay", "overlay" in filesystems),
        loop=support("loop", Path("/dev/loop-control").exists()),
        erofs_file_mount=_trial(_mount_erofs_file) if is_root else None,
        overlay_mount=_trial(_mount_overlay) if is_root else None,
    )


def _trial(mount_in: Callable[[Path, Path], None]) -> str:
    """Mount something small and unmount it again: "", or why that failed."""
    with tempfile.TemporaryDirectory(prefix="cafs-doctor-") as folder:
        point = Path(folder, "mount")
        point.mkdir()
        try:
            mount_in(Path(folder), point)
        except OSError as e:
            return e.strerror or str(e)
        unmount(point)
    return ""


def _mount_erofs_file(folder: Path, point: Path) -> None:
    """An image of an empty directory, straight from its file."""
    tree = LayerTree()
    image = folder / "image"
    image.write_bytes(b"".join(MetadataEncoder(tree, IndexLayout(tree), 0).pieces()))
    mount(str(image), point, "erofs", MountFlag.RDONLY, "")


def _mount_overlay(folder: Path, point: Path) -> None:
    """Two lower directories and no upper one, as the erofs driver mounts them."""
    lower = [folder / "a", folder / "b"]
    for directory in lower:
        directory.mkdir()
    mount("overlay", point, "overlay", MountFlag.RDONLY, f"lowerdir={lower[0]}:{lower[1]}")


def _fuse() -> FuseFacts:
    problem = ""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        problem = e.strerror or str(e)
    helper = shutil.which("fusermount3")
    setuid = helper is not None and bool(Path(helper).stat().st_mode & stat.S_ISUID)
    allow = re.search(r"^\s*user_allow_other\s*$", _text("/etc/fuse.conf"), re.MULTILINE)
    return FuseFacts(problem, helper, setuid, allow is not None)


def _cache(path: Path) -> CacheFacts:
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    status = os.statvfs(existing)
    problem = "" if os.access(existing, os.W_OK | os.X_OK) else "permission denied"
    if not existing.is_dir():
        problem = f"{existing} is not a directory"
    used = (
        sum(file.stat().st_blocks * 512 for file in path.glob("**/*.mdb") if file.is_file())
        if not problem
        else 0
    )
    return CacheFacts(str(path), filesystem_of(existing), status.f_bavail * status.f_frsize, used, problem)


def filesystem_of(path: Path) -> str:
    """The type of the filesystem a path lies on, from /proc/self/mountinfo (proc(5))."""
    above = {str(parent) for parent in (path.resolve(), *path.resolve().parents)}
    best, kind = "", "unknown"
    for line in _text("/proc/self/mountinfo").splitlines():
        fields, _, tail = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape")
        # Of two mounts on one point the later one is seen.
        if point in above and len(point) >= len(best):
            best, kind = point, tail.split()[0]
    return kind


def _user_namespaces() -> int:
    if _text("/proc/sys/kernel/unprivileged_userns_clone").strip() == "0":
        return 0
    text = _text("/proc/sys/user/max_user_namespaces").strip()
    return int(text) if text.isdigit() else 0


def _containerd() -> ContainerdFacts | None:
    program = shutil.which("containerd")
    if program is None and not _CONTAINERD_CONFIG.exists():
        return None
    problem, config = "", None
    try:
        texts = _containerd_texts(_CONTAINERD_CONFIG) if _CONTAINERD_CONFIG.exists() else ["version = 2"]
        config = parse_containerd_config(texts)
    except (OSError, UnicodeDecodeError, UsageError) as e:
        problem = e.strerror or str(e) if isinstance(e, OSError) else str(e)
    return ContainerdFacts(_containerd_version(program), str(_CONTAINERD_CONFIG), config, problem)


def _containerd_texts(path: Path) -> list[str]:
    texts = [path.read_text()]
    for pattern in imports_of(texts[0]):
        # glob and not Path.glob: patterns are absolute as often as not.
        found = sorted(glob.glob(str(path.parent / pattern)))  # noqa: PTH207 -- see above
        texts.extend(Path(name).read_text() for name in found)
    return texts


def _containerd_version(program: str | None) -> tuple[int, int] | None:
    if program is None:
        return None
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"\bv?(\d+)\.(\d+)\.\d+", said.stdout)
    return (int(found[1]), int(found[2])) if found else None


def _text(path: str | Path) -> str:
    """A file's text; "" where there is none to read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
