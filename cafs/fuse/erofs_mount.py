"""Mounts the kernel's EROFS on a FUSE mount's files, and takes it down.

Used by ``cafs.node`` for the driver ``erofs``, and layer by layer by ``cafs.snapshotter``; always from a
process that serves no FUSE request itself: mounting EROFS reads its superblock through the FUSE mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from cafs.errors import StateError
from cafs.fuse.device import may_mount
from cafs.fuse.loop import attach_loop
from cafs.fuse.syscalls import MountFlag, UnmountFlag, mount, unmount

READAHEAD_KB = 4096
"""Of an EROFS mount: several requests under way for whoever reads much in a row. A large file came a tenth
faster than with 1024; a start of Python with numpy, which reads little, took as long."""
COLD_READAHEAD_KB = 64
"""Of one whose bytes come over a link. What a start reads lies scattered, and a page fault reads as much
around it: a start of Python with numpy read 11.2 MB, compressed, instead of 15.7. It holds for files that are
opened before it is raised."""


class ErofsRefusedError(StateError):
    """The kernel does not mount EROFS for us, here."""


_SAFE = MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV


def can_mount_erofs() -> bool:
    """Whether this process may mount EROFS, and the kernel has it."""
    if not may_mount():
        return False
    return "erofs" in Path("/proc/filesystems").read_text().split() or _module_exists("erofs")


def mount_image_file(file: Path, target: Path, *, trusted: bool, cold: bool) -> None:
    """Mount a virtual image where somebody is to see it.

    Args:
        file: In a FUSE mount.
        target: Where.
        trusted: Honour set-id bits and device nodes.
        cold: Its bytes come over a link.

    Raises:
        ErofsRefusedError: the kernel refused.
    """
    try:
        mount_erofs(file, target, MountFlag.RDONLY if trusted else _SAFE, cold=cold)
    except OSError as e:
        raise ErofsRefusedError(
            f"cannot mount the image at {target}: {e.strerror} (see 'cafs doctor', or use --driver fuse)"
        ) from e


def unmount_erofs(target: Path, *, lazy: bool) -> None:
    """Unmount it; what is not mounted is passed over.

    Raises:
        OSError: EBUSY when it is in use.
    """
    try:
        unmount(target, UnmountFlag.DETACH if lazy else UnmountFlag.NONE)
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
        _mount_from_file(file, point, flags)
    except OSError as e:
        if e.errno != errno.ENOTBLK:
            raise
        mount_erofs_by_loop(file, point, flags)
    devices = _erofs_devices() - before
    set_readahead(devices, COLD_READAHEAD_KB if cold else READAHEAD_KB)
    return devices


def _mount_from_file(file: Path, point: Path, flags: MountFlag) -> None:
    """``directio``, since Linux 6.15, lets EROFS go on while what it reads ahead is on its way; without it a
    reader of one large file waits for each piece, and got four fifths of the bytes a second."""
    try:
        mount(str(file), point, "erofs", flags, "directio")
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        mount(str(file), point, "erofs", flags, "")


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
