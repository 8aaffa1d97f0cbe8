"""A peer's limits as they hold now: changed by the node's operator and by the scheduler, obeyed by all.

Made once per program. Everything here belongs to the trio thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cafs.core.settings import Settings
from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.swarm.token_bucket import TokenBucket

SLICE_BYTES = 64 << 10
"""Spent at once, so that several senders share a slow rate evenly."""
_REMEMBERED_TASKS = 256
"""Throttles kept before those that nobody used lately are looked for."""


def limits_of(settings: Settings) -> PeerLimits:
    """As configured."""
    return PeerLimits(
        concurrent_uploads=settings.concurrent_uploads,
        uploads_per_client=settings.uploads_per_client,
        concurrent_children=settings.concurrent_children,
        concurrent_pieces=settings.concurrent_pieces,
        upload_bytes_per_s=settings.upload_rate_bytes,
        download_bytes_per_s=settings.download_rate_bytes,
        source_bytes_per_s=settings.source_rate_bytes,
        task_concurrent_pieces=settings.task_concurrent_pieces,
        task_upload_bytes_per_s=settings.task_upload_rate_bytes,
        task_download_bytes_per_s=settings.task_download_rate_bytes,
        task_source_bytes_per_s=settings.task_source_rate_bytes,
        task_quota_bytes=settings.task_quota_bytes,
        store_quota_bytes=settings.store_quota_bytes,
    )


class Throttle:
    """Lets bytes through at a rate."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bucket = TokenBucket(bytes_per_s, trio.current_time())
        self._changed = trio.Event()
        self.total_bytes = 0
        """That went through since the start."""

    @property
    def unlimited(self) -> bool:
        return not self._bucket.rate

    def is_idle(self) -> bool:
        """Another one of the same rate would do as well."""
        return self._bucket.is_full(trio.current_time())

    def set_rate(self, bytes_per_s: int) -> None:
        """Holds at once, also for those who wait."""
        if bytes_per_s != self._bucket.rate:
            self._bucket.set_rate(bytes_per_s, trio.current_time())
            self._changed.set()
            self._changed = trio.Event()

    async def spend(self, count: int) -> None:
        """Wait until so many bytes may pass."""
        self.total_bytes += count
        await self._wait(count)

    async def _wait(self, count: int) -> None:
        wait_s = self._bucket.take(count, trio.current_time())
        while wait_s:
            began, rate = trio.current_time(), self._bucket.rate
            with trio.move_on_after(wait_s):
                await self._changed.wait()
                owed = (wait_s - (trio.current_time() - began)) * rate
                wait_s = max(0.0, owed / self._bucket.rate) if self._bucket.rate else 0.0
                continue
            return

    @asynccontextmanager
    async def spending(self, count: int) -> AsyncIterator[None]:
        """Wait as ``spend`` does; given back, and not counted, when what is done inside fails."""
        try:
            await self._wait(count)
            yield
        except BaseException:
            self._bucket.give_back(count)
            raise
        self.total_bytes += count


class TaskThrottles:
    """The same rate for each task."""

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._of: dict[TaskId, Throttle] = {}

    @property
    def unlimited(self) -> bool:
        return not self._rate

    def set_rate(self, bytes_per_s: int) -> None:
        """Holds at once, also for those who wait."""
        self._rate = bytes_per_s
        for throttle in self._of.values():
            throttle.set_rate(bytes_per_s)

    async def spend(self, task: TaskId, count: int) -> None:
        """Wait until so many bytes of this task may pass."""
        if self._rate:
            await self._throttle(task).spend(count)

    @asynccontextmanager
    async def spending(self, task: TaskId, count: int) -> AsyncIterator[None]:
        """See ``Throttle.spending``."""
        if not self._rate:
            yield
            return
        async with self._throttle(task).spending(count):
            yield

    def _throttle(self, task: TaskId) -> Throttle:
        found = self._of.get(task)
        if found is None:
            if len(self._of) >= _REMEMBERED_TASKS:
                self._of = {name: kept for name, kept in self._of.items() if not kept.is_idle()}
            found = self._of[task] = Throttle(self._rate)
        return found


class LiveLimits:
    """``PeerLimits``, and the throttles that follow them."""

    def __init__(self, limits: PeerLimits) -> None:
        self._now = limits
        self.upload = Throttle(limits.upload_bytes_per_s)
        self.download = Throttle(limits.download_bytes_per_s)
        self.source = Throttle(limits.source_bytes_per_s)
        self.task_upload = TaskThrottles(limits.task_upload_bytes_per_s)
        self.task_download = TaskThrottles(limits.task_download_bytes_per_s)
        self.task_source = TaskThrottles(limits.task_source_bytes_per_s)
        self._changed = trio.Event()

    @property
    def now(self) -> PeerLimits:
        return self._now

    def change(self, limits: PeerLimits) -> None:
        """From now on these hold."""
        self._now = limits
        self.upload.set_rate(limits.upload_bytes_per_s)
        self.download.set_rate(limits.download_bytes_per_s)
        self.source.set_rate(limits.source_bytes_per_s)
        self.task_upload.set_rate(limits.task_upload_bytes_per_s)
        self.task_download.set_rate(limits.task_download_bytes_per_s)
        self.task_source.set_rate(limits.task_source_bytes_per_s)
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()
