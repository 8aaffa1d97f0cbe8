"""The streams of all hosts, and the core between them.

A host's stream has a bounded queue of messages to it. Whoever reads so slowly that it runs over is dropped
and told; it comes back with a new hello, from which it is known again. Everything happens in the loop's
thread; the core is called from here only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from random import Random, SystemRandom

import grpc

from cafs.core.live.wishes import WishRules
from cafs.core.scheduling.core import Scheduling
from cafs.core.scheduling.decisions import Decision, Disconnect
from cafs.core.scheduling.events import Event, HostHello, HostLost, Tick
from cafs.core.scheduling.limits import Limits
from cafs.scheduler.outgoing import encode
from cafs.scheduler.tally import Tally

log = logging.getLogger(__name__)

_QUEUE_BYTES, _QUEUE_MESSAGES = 8 << 20, 8192
_TICK_S, _BEHIND_S = 0.1, 0.002


class Stream:
    """One host's."""

    def __init__(self, host_id: str, most_bytes: int = _QUEUE_BYTES) -> None:
        self.host_id = host_id
        self.ended = asyncio.Event()
        self.code = grpc.StatusCode.OK
        self.why = ""
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._most_bytes = most_bytes
        self._filled = asyncio.Event()

    def put(self, message: bytes) -> bool:
        """Send it, some time. False: there is no room."""
        if self._bytes + len(message) > self._most_bytes or len(self._queue) >= _QUEUE_MESSAGES:
            return False
        self._queue.append(message)
        self._bytes += len(message)
        self._filled.set()
        return True

    async def take(self) -> bytes | None:
        """The next message to be sent; None once the stream has ended."""
        while not self._queue and not self.ended.is_set():
            self._filled.clear()
            await self._filled.wait()
        if self.ended.is_set():
            return None
        message = self._queue.popleft()
        self._bytes -= len(message)
        return message

    def end(self, code: grpc.StatusCode, why: str = "") -> None:
        """The first reason counts."""
        if not self.ended.is_set():
            self.code, self.why = code, why
            self.ended.set()
            self._filled.set()


class Hub:
    """The core and the streams."""

    def __init__(
        self,
        limits: Limits,
        tally: Tally,
        clock: Callable[[], float] = time.monotonic,
        queue_bytes: int = _QUEUE_BYTES,
    ) -> None:
        self.tally = tally
        self.scheduler_id = ""
        self.wishes = WishRules()
        """What is scheduled at all."""
        self._limits = limits
        self._clock = clock
        self._queue_bytes = queue_bytes
        self._streams: dict[str, Stream] = {}
        self._begin()

    def _begin(self) -> None:
        self.scheduler_id = f"{SystemRandom().getrandbits(128):032x}"
        self.core = Scheduling(self._limits, Random())  # noqa: S311  mixes swarms, keeps no secrets

    @property
    def limits(self) -> Limits:
        """The numbers that count now."""
        return self._limits

    def change(self, limits: Limits, wishes: WishRules) -> None:
        """From now on these count, also when the scheduler begins anew."""
        self._limits = limits
        self.wishes = wishes
        self.core.change(limits)

    @property
    def connected(self) -> int:
        """Hosts with a stream."""
        return len(self._streams)

    def now(self) -> float:
        """The core's clock."""
        return self._clock()

    def open(self, hello: HostHello) -> Stream:
        """A host's stream begins; one that it had before ends."""
        stream = Stream(hello.host_id, self._queue_bytes)
        before = self._streams.get(hello.host_id)
        if before is not None:
            before.end(grpc.StatusCode.ALREADY_EXISTS, "a newer stream of this host took over")
        self._streams[hello.host_id] = stream
        self.handle(hello)
        if hello.host_id not in self.core.state.hosts:
            stream.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for more hosts")
        return stream

    def close(self, stream: Stream) -> None:
        """It ended, for whatever reason."""
        if self._streams.get(stream.host_id) is stream:
            del self._streams[stream.host_id]
            self.handle(HostLost(stream.host_id))

    def handle(self, event: Event) -> None:
        """Let the core decide, and send what it decided."""
        began = time.perf_counter()
        try:
            decisions = self.core.handle(event, self._clock())
        except Exception:
            log.exception("a mistake in the scheduler, at %s: it begins anew", type(event).__name__)
            self.tally.mistakes += 1
            self._begin()
            self.end_all(grpc.StatusCode.UNAVAILABLE, "the scheduler began anew: connect again")
            return
        self.tally.note_event(type(event).__name__, time.perf_counter() - began)
        for decision in decisions:
            if isinstance(decision, Disconnect):
                self._disconnect(decision)
            else:
                self._send(decision)

    def _disconnect(self, decision: Disconnect) -> None:
        self.tally.decisions[type(decision).__name__] += 1
        for host_id in decision.to:
            if (stream := self._streams.get(host_id)) is not None:
                log.info("host %s: its stream ends: %s", host_id, decision.why)
                stream.end(grpc.StatusCode.DEADLINE_EXCEEDED, f"{decision.why}: connect again")

    def _send(self, decision: Decision) -> None:
        self.tally.decisions[type(decision).__name__] += 1
        message = b""
        for host_id in decision.to:
            stream = self._streams.get(host_id)
            if stream is None or stream.ended.is_set():
                continue
            message = message or encode(decision, self.scheduler_id)
            if not stream.put(message):
                log.warning("host %s reads too slowly: dropped", host_id)
                self.tally.dropped += 1
                stream.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "you read too slowly: connect again")

    def end_all(self, code: grpc.StatusCode, why: str) -> None:
        """All hosts are told to go."""
        for stream in list(self._streams.values()):
            stream.end(code, why)

    async def run_ticks(self) -> None:
        """As long as it is not cancelled; sooner when large swarms wait to be told."""
        while True:
            self.handle(Tick())
            await asyncio.sleep(_BEHIND_S if self.core.behind else _TICK_S)
