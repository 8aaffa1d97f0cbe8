"""How fast one download may go: as those want who wait for it, as each task may, and as this host may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from cafs.core.swarm.ids import TaskId
from cafs.p2p.live_limits import LiveLimits, Throttle


class DownloadPace:
    """Of one download."""

    def __init__(self, limits: LiveLimits, task: TaskId) -> None:
        self._limits = limits
        self._task = task
        self._wanted = Throttle(0)
        self._waiting = 0

    @property
    def waits(self) -> bool:
        """Something is held back just now: nothing coming is nobody's failure."""
        return self._waiting > 0

    def set_wanted(self, bytes_per_s: int) -> None:
        """What its readers want by now; 0: no limit."""
        self._wanted.set_rate(bytes_per_s)

    @asynccontextmanager
    async def from_host(self, count: int) -> AsyncIterator[None]:
        """Wait until so many bytes may be asked of another host; given back when they do not come."""
        limits = self._limits
        async with AsyncExitStack() as spent:
            with self._held_back():
                await spent.enter_async_context(self._wanted.spending(count))
                await spent.enter_async_context(limits.task_download.spending(self._task, count))
                await spent.enter_async_context(limits.download.spending(count))
            yield

    async def spend_from_source(self, count: int) -> None:
        """So many came from the origin; ``Sources`` has waited for the host's own limit."""
        with self._held_back():
            await self._wanted.spend(count)
            await self._limits.task_source.spend(self._task, count)

    @contextmanager
    def _held_back(self) -> Iterator[None]:
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
