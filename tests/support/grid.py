"""A swarm in one process: real engines, upload servers and stores, and the scheduler's core."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import trio

from cafs.core.scheduling.core import Scheduling
from cafs.core.scheduling.decisions import Decision, Disconnect, Welcome
from cafs.core.scheduling.events import Event, HostHello, HostLost, Tick
from cafs.core.scheduling.limits import Limits
from cafs.core.settings import Settings
from cafs.core.swarm.ids import HostId
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.tracing import UNTRACED, Tracer
from cafs.http11.server import serve_http
from cafs.oci.registry.exchange import Patience
from cafs.p2p.content import Wish
from cafs.p2p.drivers import Drivers
from cafs.p2p.engine import Engine
from cafs.p2p.host import ScheduledHost
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.means import DownloadFigures, Means
from cafs.p2p.parent_client import ParentClient
from cafs.p2p.scheduler_link import LinkEndedError
from cafs.p2p.schedulers import Schedulers
from cafs.p2p.source import Limits as SourceLimits
from cafs.p2p.source import Sources
from cafs.p2p.task_store import TaskStore, open_task_store
from cafs.p2p.upload_server import LIMITS, UploadServer
from cafs.p2p.uploads import Uploads
from cafs.proto import p2p_pb2
from cafs.scheduler.incoming import parse_event, parse_hello
from cafs.scheduler.outgoing import encode

PATIENCE = Patience(connect_s=20.0, stall_s=20.0, room_s=20.0)
_QUOTA_BYTES = 256 << 20
_TICK_S = 0.05
_LATE_S = 1.0


class Outbox:
    """See ``cafs.p2p.schedulers.Outbox``."""

    overrun = False

    def __init__(self) -> None:
        self._send, self.messages = trio.open_memory_channel[p2p_pb2.FromHost](math.inf)

    def send(self, message: p2p_pb2.FromHost) -> None:
        self._send.send_nowait(message)


@dataclass
class LocalScheduler:
    """The core, and streams that are function calls. May die, and come back knowing nothing."""

    limits: Limits = field(default_factory=lambda: Limits(alive_every_s=0.5, gone_after_s=5.0))
    alive: bool = True
    lives: int = 0
    streams: dict[str, Callable[[p2p_pb2.ToHost], None]] = field(default_factory=dict)
    nonsense: p2p_pb2.ToHost | None = None
    """Said to a host before each thing that there is to say to it."""
    lost: type[Decision] | None = None
    """Decisions that reach nobody."""
    _ends: dict[str, trio.Event] = field(default_factory=dict)
    """Of the streams."""

    def __post_init__(self) -> None:
        self.core = Scheduling(self.limits, Random(1))

    async def converse(
        self,
        address: str,
        outbox: Outbox,
        reached: Callable[[], None],
        heard: Callable[[p2p_pb2.ToHost], None],
    ) -> None:
        """See ``cafs.p2p.schedulers.Converse``."""
        await trio.lowlevel.checkpoint()
        if not self.alive:
            raise LinkEndedError("the scheduler is dead")
        reached()
        hello = parse_hello(await outbox.messages.receive())
        self.streams[hello.host_id] = heard
        ended = self._ends[hello.host_id] = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, hello, outbox)
                await ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            self.streams.pop(hello.host_id, None)
            if self.alive:
                self.hear(HostLost(hello.host_id))
        raise LinkEndedError("the scheduler died, or took the host for gone")

    async def _listen(self, hello: HostHello, outbox: Outbox) -> None:
        self.hear(hello)
        async for message in outbox.messages:
            if (event := parse_event(hello.host_id, message)) is not None:
                self.hear(event)

    def hear(self, event: Event) -> None:
        """Decide, and tell."""
        for decision in self.core.handle(event, trio.current_time()):
            self._tell(decision)

    def _tell(self, decision: Decision) -> None:
        if isinstance(decision, Disconnect):
            self._end(decision.to)
            return
        if self.lost is not None and isinstance(decision, self.lost):
            return
        message = encode(decision, f"{self.lives:032x}")
        for host in decision.to:
            if (heard := self.streams.get(host)) is not None:
                if self.nonsense is not None and not isinstance(decision, Welcome):
                    heard(self.nonsense)
                heard(p2p_pb2.ToHost.FromString(message))

    def _end(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            if (ended := self._ends.get(host)) is not None:
                ended.set()

    async def run(self) -> None:
        """Its clock."""
        while True:
            began = trio.current_time()
            await trio.sleep(_TICK_S)
            stood_still = trio.current_time() > began + _TICK_S + _LATE_S
            if self.alive and not stood_still:  # else hosts, in the same process, had no time to give a sign
                self.hear(Tick())

    def die(self) -> None:
        """All streams break; nothing is remembered."""
        self.alive = False
        self._end(self._ends)

    def rise(self) -> None:
        """It is there again, and knows nothing."""
        self.core = Scheduling(self.limits, Random(2))
        self.alive = True
        self.lives += 1


@dataclass
class GridHost:
    """One peer."""

    id: HostId
    engine: Engine
    store: TaskStore
    limits: LiveLimits
    uploads: Uploads
    means: Means
    schedulers: Schedulers
    nursery: trio.Nursery
    """Ends with it."""

    @property
    def figures(self) -> DownloadFigures:
        """What it did."""
        return self.means.figures

    async def get(self, wish: Wish) -> bytes:
        """All that is wished for."""
        async with await self.engine.open(wish) as content:
            return b"".join([piece async for piece in content])

    def die(self) -> None:
        """As if its process were killed."""
        self.nursery.cancel_scope.cancel()


@dataclass
class Grid:
    """Hosts and their scheduler."""

    folder: Path
    nursery: trio.Nursery
    scheduler: LocalScheduler | None
    count: int = 0
    tracer: Tracer = UNTRACED
    """Of hosts that are made later."""
    drivers: Drivers | None = None
    """The same."""
    apart: bool = False
    """The same: they are told that other hosts are on other machines."""

    async def host(
        self, *, seed: bool = False, limits: PeerLimits | None = None, quota_bytes: int = _QUOTA_BYTES
    ) -> GridHost:
        """One more."""
        self.count += 1
        host_id = HostId(f"{self.count:032x}")
        made, ready = trio.open_memory_channel[GridHost](1)
        serve = partial(
            self._serve, host_id, seed=seed, limits=limits or PeerLimits(), quota_bytes=quota_bytes
        )
        self.nursery.start_soon(serve, made)
        return await ready.receive()

    async def _serve(
        self,
        host_id: HostId,
        made: trio.MemorySendChannel[GridHost],
        *,
        seed: bool,
        limits: PeerLimits,
        quota_bytes: int,
    ) -> None:
        live = LiveLimits(limits)
        uploads = Uploads(live)
        async with AsyncExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = "{}:{}".format(*listener.getsockname())
            store = await stack.enter_async_context(open_task_store(self.folder / host_id[-4:], quota_bytes))
            settings = Settings(cache_dir=self.folder, run_dir=self.folder)
            host = ScheduledHost(settings, host_id, address, live, uploads, seed=seed)
            schedulers = self._schedulers(host)
            sources = Sources(
                PATIENCE, SourceLimits(), live.source, tracer=self.tracer, drivers=self.drivers,
                others_are_here=not self.apart,
            )  # fmt: skip
            stack.push_async_callback(_closed, sources)
            parents = ParentClient(tracer=self.tracer)
            stack.callback(parents.close)
            means = Means(
                me=host_id, tasks=store, parents=parents, sources=sources,
                schedulers=schedulers, limits=live, tracer=self.tracer,
            )  # fmt: skip
            nursery = await stack.enter_async_context(trio.open_nursery())
            host.engine = engine = Engine(means, nursery)
            nursery.start_soon(
                serve_http, listener, UploadServer(store, uploads, None, engine, self.tracer).handle, LIMITS
            )
            nursery.start_soon(schedulers.run)
            made.send_nowait(GridHost(host_id, engine, store, live, uploads, means, schedulers, nursery))
            await trio.sleep_forever()

    def _schedulers(self, host: ScheduledHost) -> Schedulers:
        if self.scheduler is None:
            return Schedulers((), host, None, None)
        return Schedulers(("scheduler:1",), host, self.scheduler.converse, Outbox)  # type: ignore[arg-type]  # of this module


@asynccontextmanager
async def grid(folder: Path, *, scheduled: bool = True) -> AsyncIterator[Grid]:
    """No hosts yet."""
    async with trio.open_nursery() as nursery:
        scheduler = LocalScheduler() if scheduled else None
        if scheduler is not None:
            nursery.start_soon(scheduler.run)
        yield Grid(folder, nursery, scheduler)
        nursery.cancel_scope.cancel()


async def _closed(sources: Sources) -> None:
    with trio.CancelScope(shield=True):
        await sources.aclose()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    while not holds():  # noqa: ASYNC110
        await trio.sleep(0.01)
