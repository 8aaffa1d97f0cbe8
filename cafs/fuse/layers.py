"""Stacks kernel EROFS mounts of a FUSE mount's layer files into one overlay, and takes them down.

Used by ``cafs.node`` for the driver ``erofs``, and layer by layer by ``cafs.snapshotter``; always from a
process that serves no FUSE request itself: mounting EROFS reads its superblock through the FUSE mount.

Directories below the mount's own (0700): ``fuse`` the FUSE mount, ``l/0`` ... ``l/N-1`` the EROFS mounts,
topmost layer first, ``l/e`` an empty directory. The overlay names them relative to ``l``, so that
hundreds of layers fit the page that mount(2) has for options.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from cafs.errors import StateError
from cafs.fuse.device import may_mount
from cafs.fuse.loop import attach_loop
from cafs.fuse.syscalls import MountFlag, UnmountFlag, mount, unmount

MAX_LAYERS = 500
"""OVL_MAX_STACK of the kernel, which also takes 500 short names in one page."""
LAYERS = "l"
EMPTY = "e"
READAHEAD_KB = 1024
"""Of an EROFS mount: fewer, larger requests for whoever reads much in a row."""
COLD_READAHEAD_KB = 64
"""Of one whose bytes come over a link. What a start reads lies scattered, and a page fault reads as much
around it: a start of Python with numpy read 11.2 MB, compressed, instead of 15.7. It holds for files that are
opened before it is raised."""

_SAFE = MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV


def overlay_options(layers: int) -> str:
    """Options of a read-only overlay of ``layers`` EROFS mounts, for a mount(2) from within ``l``.

    The empty directory makes one layer an overlay too, so that whiteouts are never shown. ``xino=on``
    gives all files one device and an inode number that is theirs alone, so that hard links are
    recognised across the whole tree. An index comes from outside: whatever it says in overlayfs's own
    attributes, a directory stands for itself (no redirects) and a file has its own data (no metacopy).
    """
    return (
        "lowerdir="
        + ":".join([*map(str, range(layers)), EMPTY])
        + ",xino=on,redirect_dir=nofollow,metacopy=off"
    )


def kernel_can_stack() -> bool:
    """Whether this process may mount EROFS and overlay, and the kernel has both."""
    if not may_mount():
        return False
    known = Path("/proc/filesystems").read_text().split()
    return all(kind in known or _module_exists(kind) for kind in ("erofs", "overlay"))


def mount_layers(
    directory: Path, files: Sequence[Path], target: Path, *, name: str, trusted: bool, cold: bool
) -> None:
    """Mount each of ``files`` as EROFS and the overlay of all at ``target``.

    Args:
        directory: The mount's own directory.
        files: Layer files in the FUSE mount, bottom layer first, as in an image manifest.
        target: Where the tree is to be seen.
        name: Source shown in ``/proc/mounts``.
        trusted: Honour set-id bits and device nodes at ``target``.
        cold: Their bytes come over a link.

    Raises:
        StateError: the kernel refused. Everything mounted here is unmounted again.
    """
    if len(files) > MAX_LAYERS:
        raise StateError(
            f"{len(files)} layers are more than overlayfs can stack ({MAX_LAYERS}): --driver fuse"
        )
    base = directory / LAYERS
    (base / EMPTY).mkdir(parents=True)
    try:
        for position, file in enumerate(reversed(files)):
            point = base / str(position)
            point.mkdir()
            mount_erofs(file, point, cold=cold)
        flags = MountFlag.RDONLY if trusted else _SAFE
        with _inside(base):
            mount(name, target, "overlay", flags, overlay_options(len(files)))
    except OSError as e:
        unmount_layers(directory, None)
        raise StateError(f"cannot mount the layers at {target}: {e.strerror}") from e


def mount_layer(file: Path, target: Path, *, trusted: bool, cold: bool) -> None:
    """Mount ``file`` as EROFS at ``target``: for one layer that hides nothing.

    Overlayfs costs a fifth of a warm walk, and has nothing to do here.

    Raises:
        StateError: the kernel refused.
    """
    try:
        mount_erofs(file, target, MountFlag.RDONLY if trusted else _SAFE, cold=cold)
    except OSError as e:
        raise StateError(f"cannot mount the layer at {target}: {e.strerror}") from e


def unmount_layers(directory: Path, target: Path | None, *, lazy: bool = False) -> None:
    """Unmount the overlay (unless None), then the EROFS mounts. What is not mounted is passed over.

    Raises:
        OSError: EBUSY when the overlay is in use; then nothing was unmounted.
    """
    flags = UnmountFlag.DETACH if lazy else UnmountFlag.NONE
    if target is not None:
        _unmount_if_mounted(target, flags)
    base = directory / LAYERS
    if base.is_dir():
        for point in sorted(base.iterdir()):
            # Nobody else can be in there; the kernel may let go of them a moment after the overlay.
            _unmount_if_mounted(point, UnmountFlag.DETACH)


def _unmount_if_mounted(point: Path, flags: UnmountFlag) -> None:
    try:
        unmount(point, flags)
    except OSError as e:
        if e.errno not in {errno.EINVAL, errno.ENOENT}:
            raise


def mount_erofs(file: Path, point: Path, flags: MountFlag = _SAFE, *, cold: bool) -> frozenset[Path]:
    """Mount ``file`` at ``point``, by way of a loop device where the kernel needs one.

    Returns:
        For ``set_readahead``.

    Raises:
        OSError: the kernel refused.
    """
    before = _erofs_devices()
    try:
        mount(str(file), point, "erofs", flags, "")
    except OSError as e:
        if e.errno != errno.ENOTBLK:
            raise
        mount_erofs_by_loop(file, point, flags)
    devices = _erofs_devices() - before
    set_readahead(devices, COLD_READAHEAD_KB if cold else READAHEAD_KB)
    return devices


def mount_erofs_by_loop(file: Path, point: Path, flags: MountFlag = _SAFE) -> None:
    """As kernels before 6.12 need it, or those without EROFS_FS_BACKED_BY_FILE."""
    device, name = attach_loop(file)
    try:
        mount(name, point, "erofs", flags, "")
    finally:
        os.close(device)


def _erofs_devices() -> frozenset[Path]:
    """The kernel's knobs of mounted EROFS; which is whose it does not say."""
    return frozenset(Path("/sys/class/bdi").glob("erofs-*"))


def set_readahead(devices: frozenset[Path], kilobytes: int) -> None:
    """Of the devices that appeared while we mounted; somebody else's would do no worse with it."""
    for device in devices:
        with contextlib.suppress(OSError):  # it has gone, or fetches more than it need
            (device / "read_ahead_kb").write_text(str(kilobytes))


def _module_exists(name: str) -> bool:
    modules = Path("/lib/modules", os.uname().release, "modules.dep")
    try:
        return f"/{name}.ko" in modules.read_text()
    except OSError:
        return False


@contextlib.contextmanager
def _inside(directory: Path) -> Iterator[None]:
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir(directory)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)
