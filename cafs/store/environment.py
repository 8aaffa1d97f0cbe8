"""One LMDB environment: opening, transactions, translation of its errors. The only importer of lmdb.

LMDB's own rules, kept here:

- one open of a directory per process (the caller's ``Presence`` sees to it, py-lmdb refuses it too);
- never used in a forked child (``StateError``);
- the map is resized only while no transaction of this process runs (``Gate``);
- transactions are short: a read transaction pins the pages of its moment, and a write transaction holds
  back the other processes.

Durability: every commit syncs the data pages (fdatasync), then writes the meta page without syncing it
(``metasync=False``). After a power loss the last transaction may be missing, but what is there is whole:
LMDB overwrites only pages that were free already in the transaction before the last, and the next commit's
sync puts the meta page on the disk before it needs that.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TypeAlias

import lmdb
import lmdb.verify

from cafs.errors import StateError, StorageError
from cafs.store.gate import Gate
from cafs.store.mapped_pages import release_file_pages

Txn: TypeAlias = "lmdb.Transaction[memoryview]"
Table: TypeAlias = "lmdb._Database"

_log = logging.getLogger(__name__)

MAX_READERS = 510
"""Slots of LMDB's reader table: one for each read transaction at one moment, in all processes."""
LOCK_FILE_BYTES = 64 * (MAX_READERS + 2)
_MAX_TABLES = 8
_NEARLY_FULL_BYTES = 16 << 20
"""More than one transaction writes."""
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.CursorFullError,
    lmdb.PageFullError,
)


class NoRoomError(StorageError):
    """The map is full, or its free pages lie too scattered for a value."""


class SuspectError(StorageError):
    """LMDB failed in a way that may come of a damaged page: the file should be checked."""


class DamagedError(SuspectError):
    """LMDB met a page that cannot be."""


class Environment:
    """An open environment. Thread-safe; see the module's docstring for what it holds its users to."""

    def __init__(self, path: Path, map_bytes: int, *, readonly: bool) -> None:
        """Open ``path``, an existing directory; without ``readonly`` the data file is made when missing.

        Raises:
            StorageError: it cannot be opened (``DamagedError``: its meta pages are not LMDB's).
        """
        self._path = path
        self._pid = os.getpid()
        self._gate = Gate()
        self.readonly = readonly
        with _translated(path):
            self._env = lmdb.open(
                str(path),
                map_size=map_bytes,
                readonly=readonly,
                create=not readonly,
                metasync=False,
                mode=0o600,
                max_readers=MAX_READERS,
                max_dbs=_MAX_TABLES,
                max_spare_txns=16,
                lib_version=0,  # LMDB 0.9's format, whatever the environment variables of py-lmdb say
            )
        _close_on_exec(path)

    def table(self, name: str) -> Table:
        """A named table; made when missing, unless read-only.

        Raises:
            StorageError: read-only and missing, or LMDB failed.
        """
        with _translated(self._path):
            return self._env.open_db(name.encode(), create=not self.readonly)

    @contextmanager
    def read(self) -> Iterator[Txn]:
        """A read transaction. Its buffers die with it.

        Raises:
            StorageError: LMDB failed.
        """
        self.check_process()
        self._gate.enter()
        try:
            with _translated(self._path):
                txn = self._begin(write=False)
                try:
                    yield txn
                finally:
                    txn.abort()
        finally:
            self._gate.leave()

    @contextmanager
    def write(self) -> Iterator[Txn]:
        """A write transaction, committed at the end and undone by an exception. Waits for other writers.

        Raises:
            StorageError: LMDB or the disk failed, nothing was changed (``NoRoomError``: make room).
        """
        self.check_process()
        self._gate.enter()
        try:
            with _translated(self._path):
                txn = self._begin(write=True)
                try:
                    yield txn
                except BaseException:
                    txn.abort()
                    raise
                txn.commit()
        finally:
            self._gate.leave()

    def _begin(self, *, write: bool) -> Txn:
        try:
            return self._env.begin(write=write, buffers=True)
        except lmdb.MapResizedError:
            # Another process uses a larger map. Ours can only change while none of our threads is inside.
            self._gate.leave()
            try:
                with self._gate.alone():
                    self._env.set_mapsize(0)
            finally:
                self._gate.enter()
            return self._env.begin(write=write, buffers=True)
        except lmdb.ReadersFullError:
            self._env.reader_check()
            return self._env.begin(write=write, buffers=True)

    def grow_map(self, map_bytes: int) -> None:
        """Make the map at least so large: another process may have raised the quota since we opened."""
        self.check_process()
        with _translated(self._path), self._gate.alone():
            if self._env.info()["map_size"] < map_bytes:
                self._env.set_mapsize(map_bytes)

    def clear_dead_readers(self) -> int:
        """Free the reader slots of processes that died inside a read: they would pin old pages for ever."""
        self.check_process()
        with _translated(self._path):
            return int(self._env.reader_check())

    def structure_findings(self) -> list[str]:
        """What is wrong with the pages of the file; read with plain reads, so that no page can kill us.

        Holds the write lock meanwhile, so that the newest state on disk stays the newest.

        Raises:
            StorageError: the file cannot be read.
        """
        with self.write():
            return structure_findings(self._path)

    def copy_compacted(self, target: Path) -> None:
        """Write the environment without its free pages to ``target``, an empty directory."""
        with _translated(self._path):
            self._env.copy(str(target), compact=True)

    def release_pages(self) -> None:
        """Let go of the map's resident pages; whoever reads them, also just now, has them back."""
        self.check_process()
        self._gate.enter()  # LMDB moves its map only while it is alone
        try:
            release_file_pages(self._path.resolve() / "data.mdb")
        finally:
            self._gate.leave()

    def file_bytes(self) -> int:
        """Length of the data file."""
        return (self._path / "data.mdb").stat().st_size

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No transaction of this process runs meanwhile; ``end`` and ``take_over`` need that."""
        self.check_process()
        with self._gate.alone():
            yield

    def end(self) -> None:
        """Close LMDB's side; only while ``alone``."""
        self._env.close()

    def take_over(self, successor: Environment) -> None:
        """Go on with the LMDB side of a freshly opened environment; only while ``alone``, after ``end``."""
        self._env = successor._env

    def close(self) -> None:
        """Close it; waits for running transactions."""
        with self.alone():
            self._env.close()

    def opened_here(self) -> bool:
        """Did this process open it (or did it inherit it over a fork)?"""
        return os.getpid() == self._pid

    def check_process(self) -> None:
        """Refuse to work in a forked child: LMDB's locks and map belong to the parent."""
        if not self.opened_here():
            raise StateError(
                f"the chunk store {self._path.parent} was opened by process {self._pid}, not by this one"
                " (open it after the fork)"
            )


def structure_findings(path: Path) -> list[str]:
    """What is wrong with the pages of an environment that nobody writes; empty when sound."""
    try:
        verify = lmdb.verify.verify
        findings: list[str] = verify(str(path), subdir=True)  # type: ignore[no-untyped-call]  # it has no types
    except lmdb.verify.VerifyError as e:
        return [str(e)]
    except RecursionError:
        return ["the tree is deeper than any LMDB tree"]
    except OSError as e:
        raise StorageError(f"chunk store {path.parent}: cannot read data.mdb: {e.strerror}") from e
    return findings


def _close_on_exec(path: Path) -> None:
    """LMDB opens a file without O_CLOEXEC: a mount server that becomes the supervisor by exec kept it."""
    path = path.resolve()
    with os.scandir("/proc/self/fd") as descriptors:
        for entry in descriptors:
            with suppress(OSError):  # the scan's own descriptor, or one that another thread closed
                if Path(entry.path).readlink().parent == path:
                    os.set_inheritable(int(entry.name), False)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except lmdb.Error as e:
        _raise_translated(path, e)


def _raise_translated(path: Path, error: lmdb.Error) -> NoReturn:
    store = path.parent
    reason = str(error).split(": ", 1)[-1]
    if isinstance(error, (lmdb.MapFullError, lmdb.TxnFullError)):
        raise NoRoomError(f"chunk store {store}: no room") from error
    if isinstance(error, _DAMAGE):
        raise DamagedError(f"chunk store {store} is damaged: {reason}") from error
    if _is_disk_full(path, str(error)):
        raise StorageError(f"chunk store {store}: the disk is full") from error
    raise SuspectError(f"chunk store {store}: {reason}") from error


def _is_disk_full(path: Path, reason: str) -> bool:
    if os.strerror(errno.ENOSPC) in reason:
        return True
    if os.strerror(errno.EIO) not in reason:
        return False
    # LMDB calls a write that only partly fitted an I/O error.
    disk = os.statvfs(path)
    return disk.f_bavail * disk.f_frsize < _NEARLY_FULL_BYTES
