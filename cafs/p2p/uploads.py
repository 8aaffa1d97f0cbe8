"""Who is served by the upload server, and how fast: admission by number, then bandwidth and memory.

A client that does not take what it asked for holds a place and memory that others wait for: each answer has a
deadline by its progress, as the children's own downloads have. Pauses of ours, for the bandwidth, are no
client's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass

import trio

from cafs.core.swarm.ids import TaskId
from cafs.http11.messages import Send
from cafs.p2p.live_limits import SLICE_BYTES, LiveLimits

MEMORY_BYTES = 48 << 20
"""Of pieces on their way to clients, however slowly they take them."""
CLIENT_MEMORY_BYTES = 32 << 20
"""Of these, to one client: two pieces of the largest kind."""
ROOM_S = 4.0
"""For memory to be had: after five a child takes this host for slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slowly a client may take an answer."""

    grace_s: float = 30.0
    """It may do nothing for so long, in all. A child that fills itself rests while a reader waits there."""
    least_bytes_per_s: int = 64 << 10
    """Beside that. Children give up a parent that is slower than 256 KiB/s."""


class Sending:
    """One answer on its way."""

    def __init__(self, send: Send, pace: Pace) -> None:
        self._send = send
        self._pace = pace
        self._left_s = pace.grace_s

    async def send(self, data: bytes | memoryview) -> None:
        """Send some more.

        Raises:
            trio.TooSlowError: the client takes it too slowly.
        """
        began = trio.current_time()
        self._left_s += len(data) / self._pace.least_bytes_per_s
        with trio.fail_after(self._left_s):
            await self._send(data)
        self._left_s = min(self._pace.grace_s, self._left_s - (trio.current_time() - began))


class Uploads:
    """What is being sent to other hosts."""

    def __init__(self, limits: LiveLimits, pace: Pace | None = None) -> None:
        self._limits = limits
        self._pace = pace or Pace()
        self._of_client: Counter[str] = Counter()
        self._rooms: dict[str, _Room] = {}
        """Of the clients that are being served."""
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
                self._rooms.pop(client, None)

    @asynccontextmanager
    async def room(self, client: str, count: int) -> AsyncIterator[bool]:
        """Whether so many bytes may be held in memory, which is waited for; inside they count.

        Only while the client is ``admitted``.
        """
        own = self._rooms.setdefault(client, _Room(CLIENT_MEMORY_BYTES))
        async with AsyncExitStack() as taken:
            with trio.move_on_after(ROOM_S) as waited:
                await taken.enter_async_context(own.taken(count))
                await taken.enter_async_context(self._memory.taken(count))
            self.refused += waited.cancelled_caught
            yield not waited.cancelled_caught

    def sending(self, send: Send) -> Sending:
        """One answer, that begins now."""
        return Sending(send, self._pace)

    async def send(self, sending: Sending, data: bytes | memoryview, task: TaskId | None = None) -> None:
        """Send within the bandwidth: the host's, and that of the task whose piece it is.

        Raises:
            trio.TooSlowError: see ``Pace``.
        """
        send, throttle, of_task = sending.send, self._limits.upload, self._limits.task_upload
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

    @asynccontextmanager
    async def taken(self, count: int) -> AsyncIterator[None]:
        """Wait until so many are free; inside they are not."""
        wanted = min(count, self._total)
        async with self._turn:
            while self._free < wanted:
                self._more = trio.Event()
                await self._more.wait()
            self._free -= wanted
        try:
            yield
        finally:
            self._free += wanted
            self._more.set()
