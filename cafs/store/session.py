"""An open store from inside: transactions that count, room for new chunks, the file made smaller.

Held by ``ChunkStore`` (the everyday calls) and used by ``cafs.store.upkeep`` (verify, gc, clear). Owns the
environment, the mark that this process left at the store, and the notes of what was read.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafs.errors import IntegrityError, StorageError
from cafs.store.access import AccessLog
from cafs.store.catalog import Catalog
from cafs.store.environment import DamagedError, Environment, SuspectError, Txn
from cafs.store.location import sweep_unfinished_copy, unfinished_copy
from cafs.store.opening import open_environment, open_store
from cafs.store.presence import entry_lock
from cafs.store.records import State
from cafs.store.tables import STATE_KEY, Tables

_log = logging.getLogger(__name__)

EVICT_STEP_BYTES = 64 << 20
"""Evicted in one transaction at most: writers of other processes wait meanwhile."""


class Session:
    """Thread-safe. ``tables`` may only be used inside a transaction: compacting replaces them."""

    def __init__(self, directory: Path, quota_bytes: int, *, readonly: bool) -> None:
        """Open the store; see ``ChunkStore.open`` for the errors."""
        opened = open_store(directory, quota_bytes, readonly=readonly)
        self.directory = directory
        self.readonly = readonly
        self.accesses = AccessLog()
        self._env: Environment = opened.env
        self.tables: Tables = opened.tables
        self._presence = opened.presence
        self._sound = True
        self._verdict = ""
        self._given_quota = quota_bytes
        self._keep_quota()

    def _keep_quota(self) -> None:
        if self.readonly or self.state().quota_bytes == self._given_quota:
            return
        try:
            with self.catalog() as catalog:
                catalog.state.quota_bytes = self._given_quota
        except StorageError as e:
            _log.warning("%s (the quota stays as it was; reading goes on)", e)

    def set_quota(self, quota_bytes: int) -> None:
        """See ``ChunkStore.set_quota``."""
        with self.catalog() as catalog:
            catalog.state.quota_bytes = quota_bytes
        self._given_quota = quota_bytes
        self._env.grow_map(quota_bytes)

    def close(self) -> None:
        """Write the notes, close the environment, withdraw the mark. Waits for running transactions.

        In a forked child it touches nothing: all of it is the parent's.
        """
        if not self._env.opened_here():
            return
        if not self.readonly:
            try:
                self.flush()
            except StorageError as e:
                _log.warning("%s (which chunks were read is forgotten)", e)
        with entry_lock(self.directory):
            self._env.close()
            self._presence.withdraw(clean=self._sound, verdict=self._verdict)

    @contextmanager
    def read(self) -> Iterator[Txn]:
        """A read transaction; keep it short."""
        with self._damage_noted(), self._env.read() as txn:
            yield txn

    @contextmanager
    def catalog(self) -> Iterator[Catalog]:
        """A write transaction; takes along what readers noted, and gives it back when it fails."""
        if self.readonly:
            raise StorageError(f"chunk store {self.directory}: opened read-only")
        notes = self.accesses.take()
        try:
            with self._damage_noted(), self._env.write() as txn:
                catalog = self._catalog(txn)
                catalog.apply_accesses(notes)
                yield catalog
                catalog.save()
        except BaseException:
            self.accesses.give_back(notes)
            raise

    def _catalog(self, txn: Txn) -> Catalog:
        try:
            return Catalog(txn, self.tables)
        except IntegrityError as e:
            raise DamagedError(f"chunk store {self.directory}: {e}") from e

    @contextmanager
    def _damage_noted(self) -> Iterator[None]:
        try:
            yield
        except SuspectError:
            self.condemn()
            raise

    def condemn(self, verdict: str = "") -> None:
        """Let our mark stay behind, so that whoever opens the store next checks it.

        Args:
            verdict: What is wrong, when that is known: then it is replaced without another look.
        """
        self._sound = False
        self._verdict = self._verdict or verdict

    def state(self) -> State:
        """The counters as they are now.

        Raises:
            StorageError: they cannot be read.
        """
        with self.read() as txn:
            try:
                return State.decode(txn.get(STATE_KEY, db=self.tables.state))
            except IntegrityError as e:
                raise DamagedError(f"chunk store {self.directory}: {e}") from e

    def release_pages(self) -> None:
        """See ``ChunkStore.release_pages``."""
        self._env.release_pages()

    def file_bytes(self) -> int:
        """Length of the data file."""
        return self._env.file_bytes()

    def row_count(self) -> int:
        """Rows of chunks, ghosts among them."""
        with self.read() as txn:
            return int(txn.stat(self.tables.chunks)["entries"])

    def flush(self) -> None:
        """Write down which chunks were read, and the counters.

        Raises:
            StorageError: it cannot be written; the notes are kept for the next time.
        """
        if self.accesses.is_empty():
            return  # an idle mount must not keep the disk awake
        with self.catalog():
            pass

    def shrink(self) -> int:
        """Evict down to the quota's budget, in short transactions; returns the bytes freed."""
        total = 0
        while (excess := excess_bytes(self.state())) > 0:
            with self.catalog() as catalog:
                freed = catalog.evict(min(excess, EVICT_STEP_BYTES), unpinned_budget(catalog.state))
            if not freed:
                break
            total += freed
        return total

    def make_room(self, want_bytes: int) -> None:
        """LMDB found no run of free pages: evict more, and let what was freed become usable."""
        self.clear_dead_readers()
        self._env.grow_map(self.state().quota_bytes)
        with self.catalog() as catalog:
            catalog.evict(want_bytes, unpinned_budget(catalog.state))
        # LMDB hands a page out again in the second transaction after the one that freed it.
        for _ in range(2):
            self.flush()

    def clear_dead_readers(self) -> None:
        """Free the reader slots of processes that died in the middle of a read."""
        self._env.clear_dead_readers()

    def structure_findings(self) -> list[str]:
        """What is wrong with the pages of the data file; other writers wait meanwhile."""
        return self._env.structure_findings()

    def compact(self) -> bool:
        """Write the file anew without its free pages; not while others have the store open.

        Returns:
            Whether it was done.

        Raises:
            StorageError: no room for the copy beside the file; nothing was changed.
        """
        with entry_lock(self.directory):
            if self._presence.others():
                return False
            sweep_unfinished_copy(self.directory)
            beside = unfinished_copy(self.directory)
            try:
                beside.mkdir(mode=0o700)
                with self._env.alone():
                    self._env.copy_compacted(beside)
                    _sync(beside / "data.mdb")
                    self._replace_file(beside)
            except OSError as e:
                raise StorageError(f"chunk store {self.directory}: cannot compact: {e.strerror}") from e
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            return True

    def start_afresh(self) -> bool:
        """Forget everything but the counters, and give the file's space back; not while others use it.

        Needs no space on the disk, as deleting rows would.

        Returns:
            Whether it was done.

        Raises:
            StorageError: the file cannot be removed, or made anew.
        """
        with entry_lock(self.directory):
            if self._presence.others():
                return False
            state = self.state().without_chunks()
            try:
                with self._env.alone():
                    self._env.end()
                    (self.directory / "chunks" / "data.mdb").unlink()
                    self._reopen(state)
            except OSError as e:
                raise StorageError(f"chunk store {self.directory}: cannot clear: {e.strerror}") from e
        return True

    def _replace_file(self, beside: Path) -> None:
        self._env.end()
        (beside / "data.mdb").rename(self.directory / "chunks" / "data.mdb")
        _sync(self.directory / "chunks")
        self._reopen()

    def _reopen(self, state: State | None = None) -> None:
        opened, tables = open_environment(self.directory, self._given_quota, readonly=False)
        if state is not None:
            # Before any of our threads can look: a store without counters has no quota.
            with opened.write() as txn:
                txn.put(STATE_KEY, state.encode(), db=tables.state)
        self.tables = tables
        self._env.take_over(opened)


def budget_bytes(quota_bytes: int) -> int:
    """What the chunks may take of a quota.

    The rest stays free for LMDB: pages freed by a transaction are usable only two transactions later, runs
    of free pages must be found, and trees are copied on write.
    """
    return quota_bytes - quota_bytes // 8 - (2 << 20)


def unpinned_budget(state: State) -> int:
    """What the queues that eviction looks at may hold together."""
    return max(0, budget_bytes(state.quota_bytes) - state.pinned_bytes)


def excess_bytes(state: State) -> int:
    """How much there is too much."""
    return state.used_bytes - budget_bytes(state.quota_bytes) if state.quota_bytes else 0


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
