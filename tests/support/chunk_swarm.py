"""Hosts that exchange chunks in one process: real stores and sockets, a swarm and a registry of the test."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import blake3
import trio

from cafs.core.chunk import ChunkRef
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.tracing import UNTRACED, Tracer
from cafs.errors import StateError
from cafs.http11.messages import Handler
from cafs.http11.server import serve_http
from cafs.p2p.chunk_exchange import ChunkExchange
from cafs.p2p.chunk_peers import ChunkPeers
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.membership import ChunkMember, ChunkSwarm
from cafs.p2p.shared_blobs import SharedBlobs
from cafs.p2p.task_store import open_task_store
from cafs.p2p.upload_server import LIMITS, UploadServer
from cafs.p2p.uploads import Uploads
from cafs.store.chunk_store import ChunkStore
from tests.support.fetching import MemoryLayer, ScriptedSource

TASK = TaskId("7" * 64)
REPOSITORY = "registry.example/app"


class SwarmTable:
    """Who is in the swarm; stands for the scheduler."""

    def __init__(self) -> None:
        self.members: dict[HostId, ChunkMember] = {}
        self.wrong: list[HostId] = []


class FakeMembership:
    """See ``Membership``."""

    def __init__(self, table: SwarmTable, host_id: HostId, address: str) -> None:
        self.table = table
        self.host_id = host_id
        self.address = address

    async def swarm(self, blob: BlobRef, repository: str) -> ChunkSwarm:
        await trio.lowlevel.checkpoint()
        self.table.members.setdefault(self.host_id, ChunkMember(self.host_id, self.address))
        others = tuple(m for host, m in self.table.members.items() if host != self.host_id)
        return ChunkSwarm(TASK, others, True)

    def leave(self, blob: BlobRef) -> None:
        self.table.members.pop(self.host_id, None)

    def note_wrong(self, blob: BlobRef, member: ChunkMember) -> None:
        self.table.wrong.append(member.host_id)


class OpenAccount:
    """See ``Account``: what is blocked, and all that was noted."""

    def __init__(self) -> None:
        self.blocked = False
        self.noted: Counter[tuple[BlobRef, str]] = Counter()
        """Bytes, by blob and the sender's address; empty: the registry."""

    def check(self, _wish: ChunkWish) -> None:
        if self.blocked:
            raise StateError("blocked by the test")

    def note(self, blob: BlobRef, count: int, member: ChunkMember | None) -> None:
        self.noted[blob, member.address if member is not None else ""] += count


class OneRepository:
    """Stands for ``Repositories``: every reference leads to one source."""

    def __init__(self, source: ScriptedSource) -> None:
        self.source = source

    def get(self, _reference: object) -> ScriptedSource:
        return self.source

    async def close_idle(self, _used: object) -> None:
        await trio.lowlevel.checkpoint()


class Host:
    """One peer."""

    def __init__(self, number: int, directory: Path, source: ScriptedSource) -> None:
        self.id = HostId(blake3.blake3(bytes([number])).hexdigest()[:32])
        self.directory = directory
        self.source = source
        self.limits: LiveLimits
        self.membership: FakeMembership
        self.shared: SharedBlobs
        self.exchange: ChunkExchange
        self.uploads: Uploads
        self.store: ChunkStore
        self.asked: list[ChunkWish] = []
        self.scope = trio.CancelScope()
        self.tracer: Tracer = UNTRACED
        self.account = OpenAccount()

    def member(self) -> ChunkMember:
        return ChunkMember(self.id, self.membership.address)

    async def serve(self, wish: ChunkWish) -> Sequence[object]:
        """As the exchange does, and remembers the wish."""
        self.asked.append(wish)
        return await self.exchange.serve(wish)

    def stored(self, layer: MemoryLayer) -> list[bool]:
        return self.store.has([ref.digest for ref in layer.table.refs])


@asynccontextmanager
async def swarm(
    path: Path,
    source: ScriptedSource,
    count: int,
    handlers: dict[int, Handler] | None = None,
    tracer: Tracer = UNTRACED,
) -> AsyncIterator[tuple[list[Host], SwarmTable]]:
    """So many hosts; ``handlers`` serve in place of the upload servers of these."""
    table = SwarmTable()
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        hosts = []
        for number in range(count):
            host = Host(number, path / str(number), source)
            host.tracer = tracer
            await _start(host, table, stack, nursery, (handlers or {}).get(number))
            hosts.append(host)
        yield hosts, table
        nursery.cancel_scope.cancel()


async def _start(
    host: Host, table: SwarmTable, stack: AsyncExitStack, nursery: trio.Nursery, handler: Handler | None
) -> None:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    host.limits = LiveLimits(PeerLimits())
    host.membership = FakeMembership(table, host.id, address)
    host.shared = SharedBlobs(host.membership, host.directory / "shared.json")
    host.store = stack.enter_context(ChunkStore.open(host.directory / "store", 64 << 20))
    tasks = await stack.enter_async_context(open_task_store(host.directory / "tasks", 64 << 20))
    host.exchange = await stack.enter_async_context(
        ChunkExchange(
            host.store,
            OneRepository(host.source),
            host.shared,
            ChunkPeers(None, host.limits.download, host.tracer),
            host.limits.source,
            account=host.account,
            concurrency=8,
            tracer=host.tracer,
        )
    )
    host.uploads = Uploads(host.limits)
    server = UploadServer(tasks, host.uploads, host, tracer=host.tracer)

    async def serve() -> None:
        with host.scope:
            await serve_http(listener, handler or server.handle, LIMITS)
        listener.close()

    nursery.start_soon(serve)


def wish_for(layer: MemoryLayer, refs: Sequence[ChunkRef] | None = None, urgency: int = 0) -> ChunkWish:
    """What a mount server asks for."""
    return ChunkWish(layer.blobs[0], REPOSITORY, tuple(refs or layer.table.refs), True, urgency)
