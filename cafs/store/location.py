"""The store's directory: made private, refused where LMDB is unsafe, moved aside when damaged.

DIR/              0700
  door.lock       held while somebody opens, closes or replaces the store
  users/PID       one per process that has it open
  chunks/         the LMDB environment: data.mdb, lock.mdb
  compact/        a smaller copy of the environment that is being written
  damaged/        the last environment that was found damaged; removed by gc and clear
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from cafs.errors import NotFoundError, StorageError

_NETWORK = {
    0x6969: "nfs",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x517B: "smb",
    0x01021997: "9p",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x00C36400: "ceph",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x65735546: "fuse",
    0x7461636F: "ocfs2",
    0x01161970: "gfs2",
}
"""Magic numbers of statfs(2), Linux include/uapi/linux/magic.h and the drivers' own headers. FUSE is among
them because nothing tells a local FUSE filesystem from sshfs, and few keep mmap and write coherent."""


def store_directory(cache_dir: Path) -> Path:
    """Where the node's chunk store lies; the one place that knows."""
    return cache_dir / "store"


def prepare_directory(store: Path, *, readonly: bool) -> None:
    """Make the store's directory, or check the one that is there.

    Raises:
        NotFoundError: read-only, and there is no store.
        StorageError: it cannot be made or made private, or lies on a network filesystem.
    """
    try:
        if readonly:
            if not (store / "chunks" / "data.mdb").exists():
                raise NotFoundError(f"there is no chunk store in {store}")
        else:
            store.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_network_filesystem(store)
        if readonly:
            return
        if stat.S_IMODE(store.stat().st_mode) & 0o077:
            store.chmod(0o700)
        (store / "chunks").mkdir(mode=0o700, exist_ok=True)
    except OSError as e:
        raise StorageError(f"chunk store {store}: {e.strerror}") from e


def refuse_network_filesystem(store: Path) -> None:
    """LMDB's locks and memory map are unsafe where several machines share a filesystem.

    Raises:
        StorageError: the directory lies on one.
    """
    kind = _NETWORK.get(_filesystem_magic(store))
    if kind is not None:
        raise StorageError(
            f"chunk store {store}: lies on a {kind} filesystem, where LMDB is not safe"
            " (choose a cache directory on a local disk)"
        )


def _filesystem_magic(path: Path) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    # struct statfs is 120 bytes on 64-bit Linux; f_type is its first field, a C long.
    buffer = ctypes.create_string_buffer(256)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def reserve_lock_file(environment: Path, size: int) -> None:
    """Give lock.mdb real blocks before LMDB maps it.

    LMDB makes it as a sparse file and writes through a map: on a full disk that is a SIGBUS, not an error.
    Called before this process opens the environment only: closing any descriptor of lock.mdb drops all
    fcntl locks that the process holds on it.

    Raises:
        StorageError: the disk is full.
    """
    try:
        fd = os.open(environment / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_blocks * 512 < size:
                os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)
    except OSError as e:
        raise StorageError(f"chunk store {environment.parent}: {e.strerror}") from e


def set_aside(store: Path) -> None:
    """Move the environment out of the way and make an empty place for a new one.

    Processes that have the old one open keep it.
    """
    try:
        shutil.rmtree(store / "damaged", ignore_errors=True)
        (store / "chunks").rename(store / "damaged")
        (store / "chunks").mkdir(mode=0o700, exist_ok=True)
    except OSError as e:
        raise StorageError(f"chunk store {store}: cannot set the damaged one aside: {e.strerror}") from e


def unfinished_copy(store: Path) -> Path:
    """Where the environment is copied to before the copy takes its place."""
    return store / "compact"


def sweep_unfinished_copy(store: Path) -> None:
    """Remove what a process left that was killed while it copied; behind the door lock nobody copies now."""
    shutil.rmtree(unfinished_copy(store), ignore_errors=True)


def remove_damaged(store: Path) -> int:
    """Remove what ``set_aside`` left; returns the bytes given back."""
    folder = store / "damaged"
    size = sum(path.stat().st_blocks * 512 for path in folder.glob("*"))
    shutil.rmtree(folder, ignore_errors=True)
    return size


def data_bytes(environment: Path) -> int:
    """Length of the data file; 0 when there is none."""
    try:
        return (environment / "data.mdb").stat().st_size
    except FileNotFoundError:
        return 0


def lacks_bytes(environment: Path) -> bool:
    """Is the data file shorter than its own meta pages say? Reading behind its end would be a SIGBUS.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return 0 < data_bytes(environment) < _claimed_bytes(environment)
    except FileNotFoundError:
        return False
    except OSError as e:
        raise StorageError(f"chunk store {environment.parent}: {e.strerror}") from e


def lengthen(environment: Path) -> None:
    """Make a sound data file as long as its meta pages say.

    Raises:
        StorageError: it cannot be done.
    """
    try:
        if lacks_bytes(environment):
            os.truncate(environment / "data.mdb", _claimed_bytes(environment))
    except OSError as e:
        raise StorageError(f"chunk store {environment.parent}: {e.strerror}") from e


def unreadable(file: Path, advance: Callable[[int], object] = lambda _: None) -> list[str]:
    """Read a file from end to end; what stood in the way, or nothing."""
    buffer = bytearray(1 << 20)
    try:
        with file.open("rb", buffering=0) as content:
            while count := content.readinto(buffer):
                advance(count)
    except OSError as e:
        return [f"{file}: {e.strerror}"]
    return []


def _claimed_bytes(environment: Path) -> int:
    """How long the newest meta page says the file is; more than any file when there is no such page."""
    with (environment / "data.mdb").open("rb") as file:
        head = file.read(_META_BYTES)
        page_bytes = int.from_bytes(head[40:44], "little")
        file.seek(page_bytes)
        second = file.read(_META_BYTES)
    if len(head) < _META_BYTES or len(second) < _META_BYTES:
        return 1 << 63
    _, last = max(_meta(head), _meta(second))
    return (last + 1) * page_bytes


_META_BYTES = 152
"""Page header (16), then MDB_meta: magic u32, version u32, address u64, mapsize u64, two MDB_db of 48 bytes
(the first starts with the page size, u32 at 40), last page u64 at 136, transaction u64 at 144."""


def _meta(page: bytes) -> tuple[int, int]:
    return int.from_bytes(page[144:152], "little"), int.from_bytes(page[136:144], "little")
