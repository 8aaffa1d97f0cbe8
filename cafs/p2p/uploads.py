"""Who is served by the upload server, and how fast: admission by number, then bandwidth and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from cafs.core.swarm.ids import TaskId
from cafs.http11.messages import Send
from cafs.p2p.live_limits import SLICE_BYTES, LiveLimits

MEMORY_BYTES = 48 << 20
"""Of pieces on their way to clients, however slowly they take them."""


class Uploads:
    """What is being sent to other hosts."""

    def __init__(self, limits: LiveLimits) -> None:
        self._limits = limits
        self._of_client: Counter[str] = Counter()
        self._memory = _Room(MEMORY_BYTES)
        self.active = 0
        self.refused = 0
        self.served = 0

    @contextmanager
    def admitted(self, client: str) -> Iterator[bool]:
        """Whether one more request of this client is served; inside it counts as being served."""
        limits = self._limits.now
        of_client = self._of_client.get(client, 0)
        if (
            self.active >= limits.concurrent_uploads
            or of_client >= limits.uploads_per_client
            or (not of_client and len(self._of_client) >= limits.concurrent_children)
        ):
            self.refused += 1
            yield False
            return
        self.active += 1
        self._of_client[client] += 1
        try:
            yield True
        finally:
            self.served += 1
            self.active -= 1
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    @asynccontextmanager
    async def room(self, count: int) -> AsyncIterator[None]:
        """Wait until so many bytes may be held in memory; inside they count."""
        await self._memory.take(count)
        try:
            yield
        finally:
            self._memory.give(count)

    async def send(self, send: Send, data: bytes | memoryview, task: TaskId | None = None) -> None:
        """Send within the bandwidth: the host's, and that of the task whose piece it is."""
        throttle, of_task = self._limits.upload, self._limits.task_upload
        if throttle.unlimited and (task is None or of_task.unlimited):
            await throttle.spend(len(data))
            await send(data)
            return
        view = memoryview(data)
        for begin in range(0, len(view), SLICE_BYTES):
            part = view[begin : begin + SLICE_BYTES]
            if task is not None:
                await of_task.spend(task, len(part))
            await throttle.spend(len(part))
            await send(part)


class _Room:
    """A number of bytes, given out in the order in which they were asked for."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._turn = trio.Lock()
        self._more = trio.Event()

    async def take(self, count: int) -> None:
        wanted = min(count, self._total)
        async with self._turn:
            while self._free < wanted:
                self._more = trio.Event()
                await self._more.wait()
            self._free -= wanted

    def give(self, count: int) -> None:
        self._free += min(count, self._total)
        self._more.set()
