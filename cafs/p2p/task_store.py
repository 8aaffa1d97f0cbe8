"""All tasks on this host's disk, within a quota. See ``StoredTask``.

Used by the engine (writes), the upload server and the node socket (read). One trio thread owns all state;
disk and hashing happen in worker threads. What is in use is never evicted; what was not used for longest goes
first, whole.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import trio

from cafs.core.swarm.ids import TaskId, parse_task_id
from cafs.core.swarm.task import TaskSpec
from cafs.errors import IntegrityError, StorageError, UsageError
from cafs.p2p.recent_pieces import RecentPieces
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_files import Record, TaskFiles

_log = logging.getLogger(__name__)
T = TypeVar("T")
Args = TypeVarTuple("Args")

SAVE_EVERY_S = 1.0
"""A crash loses the last second's pieces, which are fetched again."""
RECENT_BYTES = 12 << 20
"""Of pieces of tasks in use that are kept in memory after they were written."""
MOST_EMPTY = 1024
"""Tasks in nobody's use of which no piece is here: what origins refused, and contents of no bytes."""
THREADS = 4
"""That hash and write at once: more would not be quicker on a disk."""


class TaskStore:
    """All tasks that this host keeps. Made by ``open_task_store``."""

    def __init__(self, directory: Path, quota_bytes: int) -> None:
        self._directory = directory
        self._quota_bytes = quota_bytes
        self._used_bytes = 0
        self._tasks: dict[TaskId, StoredTask] = {}
        self._leaving: dict[TaskId, trio.Event] = {}
        self._threads = trio.CapacityLimiter(THREADS)
        self._lost: list[TaskId] = []
        self._has_lost = trio.Event()
        self._too_much = trio.Event()
        self._empty: dict[TaskId, None] = {}
        """Of which no piece was here when nobody used them any more, the oldest first."""
        self.recent = RecentPieces(RECENT_BYTES)

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    @property
    def quota_bytes(self) -> int:
        return self._quota_bytes

    def set_quota(self, quota_bytes: int) -> None:
        """Holds at once: what is too much goes; what is in use goes when it is not any more."""
        self._quota_bytes = quota_bytes
        self.note_idle()

    def tasks(self) -> list[StoredTask]:
        """All of them, in no order."""
        return list(self._tasks.values())

    def find(self, task: TaskId) -> StoredTask | None:
        return self._tasks.get(task)

    async def take(self, spec: TaskSpec) -> StoredTask:
        """The task, made when it is not here.

        Raises:
            StorageError: the disk cannot.
        """
        if (found := self._tasks.get(spec.task_id)) is not None:
            return found
        while (leaving := self._leaving.get(spec.task_id)) is not None:  # its directory is being removed
            await leaving.wait()
        files = TaskFiles(self._directory / spec.task_id)
        await self.in_thread(files.make)
        made = StoredTask(self, Record(spec, used_at_s=time.time()), files)
        return self._tasks.setdefault(spec.task_id, made)

    async def delete(self, task: TaskId) -> bool:
        """Forget a task, also one in use (its readers then fail); False when it is not here."""
        found = self._tasks.pop(task, None)
        if found is None:
            return False
        self._lost.append(task)
        self._has_lost.set()
        leaving = self._leaving[task] = trio.Event()
        try:
            await found.discard()
        finally:
            del self._leaving[task]
            leaving.set()
        return True

    async def lost(self) -> list[TaskId]:
        """Wait for tasks to be deleted or evicted; returns which. For one caller at a time."""
        await self._has_lost.wait()
        lost, self._lost, self._has_lost = self._lost, [], trio.Event()
        return lost

    async def make_room(self, want_bytes: int) -> None:
        """Evict what was not used for longest, until so much more fits.

        Raises:
            StorageError: what is left is in use.
        """
        while self._used_bytes + want_bytes > self._quota_bytes:
            if not await self.evict_one():
                raise StorageError(f"the task store is full: its {self._quota_bytes >> 20} MiB are in use")

    async def evict_one(self) -> bool:
        """Delete what was not used for longest; False: all that is left is in use."""
        idle = [task for task in self._tasks.values() if not task.in_use and task.held_bytes]
        if not idle:
            return False
        victim = min(idle, key=lambda task: task.used_at_s)
        _log.info("task %s is evicted", victim.id)
        await self.delete(victim.id)
        return True

    def note_idle(self) -> None:
        """The quota is another one, or something is not in use any more."""
        if self._used_bytes > self._quota_bytes:
            self._too_much.set()

    def note_empty(self, task: TaskId) -> None:
        """Nobody uses it, and no piece of it is here."""
        self._empty.pop(task, None)
        self._empty[task] = None
        if len(self._empty) > MOST_EMPTY:
            self._too_much.set()

    async def keep_quota(self) -> None:
        """Evict whenever there is too much; runs for ever."""
        while True:
            await self._too_much.wait()
            self._too_much = trio.Event()
            while self._used_bytes > self._quota_bytes and await self.evict_one():
                pass
            while len(self._empty) > MOST_EMPTY:
                await self._forget_empty(next(iter(self._empty)))

    async def _forget_empty(self, name: TaskId) -> None:
        del self._empty[name]
        task = self._tasks.get(name)
        if task is not None and not task.in_use and not task.have.bits:
            await self.delete(name)

    def check_room(self, want_bytes: int) -> None:
        """Is there room for so much more, when all that is idle goes?

        Only as of now: what else is under way will want some, too.

        Raises:
            StorageError: no.
        """
        if not want_bytes:
            return
        used = sum(task.held_bytes for task in self._tasks.values() if task.in_use)
        disk = os.statvfs(self._directory)
        left = self._quota_bytes - used
        free = disk.f_bavail * disk.f_frsize + self._used_bytes - used
        if want_bytes > min(left, free):
            what = "of its quota" if left < free else "on its disk"
            raise StorageError(
                f"the task store has no room for {want_bytes} bytes: {min(left, free)} are left {what}"
            )

    def note_bytes(self, more: int) -> None:
        """A task grew, or (less than 0) shrank."""
        self._used_bytes += more

    async def in_thread(self, call: Callable[[*Args], T], *arguments: *Args) -> T:
        """Run disk work; not cut off when the caller is cancelled."""
        return await trio.to_thread.run_sync(call, *arguments, limiter=self._threads)

    async def save_all(self) -> None:
        """Write all records that changed; a disk that cannot is logged."""
        for task in self.tasks():
            try:
                await task.save()
            except StorageError as e:
                _log.warning("%s (what it has now is fetched again after a restart)", e)

    async def restore(self) -> None:
        """What earlier runs left; what cannot be read is removed."""
        for record, files in await trio.to_thread.run_sync(_load_all, self._directory):
            task = StoredTask(self, record, files)
            task.dirty = False
            self._tasks[task.id] = task
            task.count()
            if not task.have.bits:
                self.note_empty(task.id)


def _load_all(directory: Path) -> list[tuple[Record, TaskFiles]]:
    loaded = []
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(directory.iterdir()):
        files = TaskFiles(path)
        try:
            record = files.load()
            if parse_task_id(path.name) != record.spec.task_id:
                raise IntegrityError(f"the record of task {path.name} is another's")
        except (IntegrityError, UsageError) as e:
            _log.warning("%s; removed", e)
            files.remove()
        else:
            loaded.append((record, files))
    return loaded


@asynccontextmanager
async def open_task_store(directory: Path, quota_bytes: int) -> AsyncIterator[TaskStore]:
    """The tasks in ``directory``, which is made when missing (0700) and must not be another's.

    Raises:
        StorageError: it cannot be used.
    """
    store = TaskStore(directory, quota_bytes)
    try:
        await store.restore()
    except OSError as e:
        raise StorageError(f"task store {directory}: {e.strerror}") from e
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_save_now_and_then, store)
        nursery.start_soon(store.keep_quota)
        store.note_idle()  # the quota may be smaller than at the last run
        try:
            yield store
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await store.save_all()


async def _save_now_and_then(store: TaskStore) -> None:
    while True:
        await trio.sleep(SAVE_EVERY_S)
        await store.save_all()
