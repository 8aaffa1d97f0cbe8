"""The threads that the snapshotter's loop hands its waiting to: nothing that may block runs in the loop.

One thread carries out what the ledger does, one reads the database, some mount, and others look at the files
of snapshots: mounts hang with the mount server, files with the disk, and neither holds up the other. Owned
by ``program``. A call whose caller is cancelled runs to its end all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
MOUNT_THREADS = 16
"""Each may be caught in a mount that a hanging mount server does not answer."""
FILE_THREADS = 8
"""Each may count a million files."""


class Workers:
    """A thread for changes, one for reading, and two pools."""

    def __init__(self) -> None:
        self._ledger = _OneThread("ledger")
        self._reader = _OneThread("reader")
        self._mounts = ThreadPoolExecutor(MOUNT_THREADS, "mounts")
        self._files = ThreadPoolExecutor(FILE_THREADS, "files")

    async def ledger(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what changes the database."""
        return await self._ledger.run(lambda: function(*args, **kwargs))

    async def reader(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what reads the database."""
        return await self._reader.run(lambda: function(*args, **kwargs))

    async def mounts(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what mounts, unmounts, or asks the mount server's FUSE."""
        return await asyncio.get_running_loop().run_in_executor(
            self._mounts, lambda: function(*args, **kwargs)
        )

    async def files(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run what looks at the files of snapshots."""
        return await asyncio.get_running_loop().run_in_executor(
            self._files, lambda: function(*args, **kwargs)
        )

    def close(self) -> None:
        """Let what is under way come to its end, but not what may hang for ever."""
        for pool in (self._mounts, self._files):
            pool.shutdown(wait=False, cancel_futures=True)
        self._ledger.close()
        self._reader.close()


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    function: Callable[[], Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop

    def carry_out(self) -> None:
        try:
            result = self.function()
        except BaseException as e:  # noqa: ASYNC103 - the caller gets it
            self.loop.call_soon_threadsafe(self._fail, e)
        else:
            self.loop.call_soon_threadsafe(self._succeed, result)

    def _succeed(self, result: Any) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def _fail(self, error: BaseException) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _OneThread:
    """Carries out one job after the other.

    An executor's thread does the same with more locks and callbacks, which takes 0.08 ms longer in a process
    that was idle before, as a snapshotter is; and a call of containerd's has up to three such jobs.
    """

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], _T]) -> _T:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()
        self._jobs.put(_Job(function, answer, loop))
        return await answer

    def close(self) -> None:
        """Once all jobs are done."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.carry_out()
