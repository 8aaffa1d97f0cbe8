"""Tries what a mount needs on this machine, for ``cafs doctor``: in a temporary folder, and undone at once.

EROFS is tried on a file that FUSE serves, as a mount has it: from which other files the kernel mounts it is
another question (not from those on a tmpfs or an overlayfs).
"""

from __future__ import annotations

import errno
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cafs.errors import CafsError
from cafs.fuse.device import DeviceOptions, mount_device, unmount_device
from cafs.fuse.erofs_mount import mount_erofs_by_loop
from cafs.fuse.first_session import answer_from_memory
from cafs.fuse.flat import FlatTree
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.supervisor import answer_init
from cafs.fuse.syscalls import MountFlag, mount, unmount
from cafs.index.layout import IndexLayout
from cafs.index.metadata import MetadataEncoder
from cafs.index.tree import LayerTree
from cafs.node.machine_facts import Trials

_NAME = "image"


def try_mounts(*, fuse: bool, is_root: bool) -> Trials:
    """Mount what this user may need.

    Args:
        fuse: Whether what FUSE needs is there; else it is not tried, and EROFS neither.
        is_root: Others need FUSE only.
    """
    try:
        held = tempfile.TemporaryDirectory(prefix="cafs-doctor-", ignore_cleanup_errors=True)
        folder = Path(held.name)
        for name in ("fuse", "mount", "a", "b"):
            (folder / name).mkdir()
    except OSError as e:
        return Trials(untried=e.strerror or str(e))
    with held:
        overlay = _told(_trial(_mount_overlay, folder, folder / "mount")) if is_root else None
        if not fuse:
            return Trials(overlay=overlay)
        try:
            with _served_image(folder / "fuse") as image:
                file, loop = _try_erofs(image, folder / "mount") if is_root else (None, None)
        except (CafsError, OSError) as e:
            return Trials(overlay=overlay, fuse=_told(e))
        return Trials(overlay=overlay, fuse="", erofs_file=file, erofs_loop=loop)


def _try_erofs(image: Path, point: Path) -> tuple[str, str | None]:
    """How it went from the file, and by a loop device, which is only tried where the kernel asks for one."""
    problem = _trial(lambda file, point: mount(str(file), point, "erofs", MountFlag.RDONLY, ""), image, point)
    if problem is None or problem.errno != errno.ENOTBLK:
        return _told(problem), None
    return _told(problem), _told(_trial(mount_erofs_by_loop, image, point))


def _trial(mount_at: Callable[[Path, Path], None], what: Path, point: Path) -> OSError | None:
    """Mount something and unmount it again; why that failed."""
    try:
        mount_at(what, point)
        unmount(point)
    except OSError as e:
        return e
    return None


def _told(error: BaseException | None) -> str:
    """In words, without our own temporary folder; "" when all went well."""
    if error is None:
        return ""
    cause = error if isinstance(error, OSError) else error.__cause__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error)


def _mount_overlay(folder: Path, point: Path) -> None:
    """Two lower directories and no upper one."""
    mount("overlay", point, "overlay", MountFlag.RDONLY, f"lowerdir={folder}/a:{folder}/b")


@contextmanager
def _served_image(point: Path) -> Iterator[Path]:
    """An EROFS image of an empty directory, served through FUSE by a process of its own.

    Raises:
        StateError: FUSE cannot be mounted.
    """
    descriptor = mount_device(point, DeviceOptions("cafs-doctor"))
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            answer_init(descriptor)
            answer_from_memory(descriptor, FlatTree([(_NAME, _EmptyImage())]), Outstanding())
        os._exit(0)
    os.close(descriptor)  # when the child ends, whoever waits for it hears so
    try:
        yield point / "layers" / _NAME
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        unmount_device(point, lazy=True)


class _EmptyImage:
    """A ``VirtualImage``."""

    about = "doctor"

    def __init__(self) -> None:
        tree = LayerTree()
        self._content = b"".join(MetadataEncoder(tree, IndexLayout(tree), 0).pieces())
        self.virtual_bytes = len(self._content)

    def try_read(self, offset: int, size: int) -> Sequence[bytes]:
        """All is here."""
        return [self._content[offset : offset + size]]

    async def read(self, offset: int, size: int) -> Sequence[bytes]:
        """As above."""
        return self.try_read(offset, size)
