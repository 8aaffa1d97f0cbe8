"""What ``cafs peer`` is made of, in the order in which it is opened; it is closed in the other.

Nothing is served yet and no manager knows of it: that is for ``program``, which alone uses this.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import trio

from cafs.core.proxying.guard import parse_guard
from cafs.core.settings import Settings
from cafs.core.swarm.ids import HostId
from cafs.core.tracing import Tracer
from cafs.errors import StateError, UsageError
from cafs.fetch.local_peer import peer_socket
from cafs.oci.registry.address import is_loopback
from cafs.oci.registry.exchange import Patience
from cafs.oci.registry.pull_secrets import PullSecrets
from cafs.oci.repositories import Repositories
from cafs.p2p.blob_swarms import BlobSwarms
from cafs.p2p.chunk_account import ChunkAccount
from cafs.p2p.chunk_exchange import ChunkExchange
from cafs.p2p.chunk_peers import ChunkPeers
from cafs.p2p.drivers import Drivers
from cafs.p2p.engine import Engine
from cafs.p2p.host import ScheduledHost
from cafs.p2p.live_limits import LiveLimits, limits_of
from cafs.p2p.means import Means
from cafs.p2p.mutual_tls import HostTls, load_host_tls
from cafs.p2p.named_schedulers import known_schedulers
from cafs.p2p.parent_client import ParentClient
from cafs.p2p.peer_figures import PeerFigures
from cafs.p2p.places import keep_host_id, listen_tcp, listen_unix
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.schedulers import Schedulers
from cafs.p2p.shared_blobs import SharedBlobs
from cafs.p2p.source import Limits, Sources
from cafs.p2p.task_store import TaskStore, open_task_store
from cafs.p2p.telemetry import tracing
from cafs.p2p.uploads import Uploads
from cafs.store.chunk_store import ChunkStore
from cafs.store.location import store_directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A peer or seed that is open."""

    node: socket.socket
    """Listens to this node's programs."""
    others: socket.socket
    """Listens to other hosts."""
    tls: HostTls | None
    tracer: Tracer
    host: ScheduledHost
    limits: LiveLimits
    uploads: Uploads
    schedulers: Schedulers
    tasks: TaskStore
    chunks: ChunkStore
    repositories: Repositories
    exchange: ChunkExchange
    means: Means
    engine: Engine
    profiles: ProfileRelay
    figures: PeerFigures
    nursery: trio.Nursery
    """In which it works."""


@asynccontextmanager
async def composed(settings: Settings, *, seed: bool) -> AsyncIterator[Composed]:
    """Open while the context lasts.

    Raises:
        CafsError: it cannot start.
    """
    tls, path = load_host_tls(settings), peer_socket(settings.run_dir)
    limits = LiveLimits(limits_of(settings))
    uploads = Uploads(limits)
    host_id = keep_host_id(settings.cache_dir / "peer")
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(tracing("cafs-seed" if seed else "cafs-peer"))
        node = stack.enter_context(listen_unix(path))
        others = stack.enter_context(listen_tcp(settings.peer_listen))
        address = _reached_at(settings, others)
        host = ScheduledHost(settings, host_id, address, limits, uploads, seed=seed)
        schedulers = _schedulers(settings, host)
        tasks = await stack.enter_async_context(
            open_task_store(settings.cache_dir / "peer" / "tasks", settings.task_quota_bytes)
        )
        means = await stack.enter_async_context(
            _means(
                settings,
                host_id=host_id,
                address=address,
                tasks=tasks,
                schedulers=schedulers,
                limits=limits,
                tls=tls,
                tracer=tracer,
            )
        )
        chunks = stack.enter_context(
            ChunkStore.open(store_directory(settings.cache_dir), settings.store_quota_bytes)
        )
        repositories = Repositories(settings, PullSecrets().sources)
        stack.push_async_callback(repositories.aclose)
        peers = ChunkPeers(tls.client if tls else None, limits.download, tracer)
        exchange = await stack.enter_async_context(
            ChunkExchange(
                chunks,
                repositories,
                SharedBlobs(BlobSwarms(host_id, schedulers), settings.cache_dir / "peer" / "shared.json"),
                peers,
                limits.source,
                account=ChunkAccount(means, repositories),
                concurrency=settings.fetch_concurrency,
                tracer=tracer,
            )
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        host.engine = engine = Engine(means, nursery)
        profiles = ProfileRelay(has_manager=bool(settings.managers), is_on=settings.learned_profiles)
        yield Composed(
            node=node,
            others=others,
            tls=tls,
            tracer=tracer,
            host=host,
            limits=limits,
            uploads=uploads,
            schedulers=schedulers,
            tasks=tasks,
            chunks=chunks,
            repositories=repositories,
            exchange=exchange,
            means=means,
            engine=engine,
            profiles=profiles,
            figures=PeerFigures(means, engine, exchange, uploads, profiles, seed=seed),
            nursery=nursery,
        )


@asynccontextmanager
async def _means(
    settings: Settings,
    *,
    host_id: HostId,
    address: str,
    tasks: TaskStore,
    schedulers: Schedulers,
    limits: LiveLimits,
    tls: HostTls | None,
    tracer: Tracer,
) -> AsyncIterator[Means]:
    drivers = Drivers(tuple(map(Path, settings.shared_directories)))
    patience = Patience.from_settings(settings)
    guard = parse_guard(settings.proxy_allow)
    sources = Sources(
        patience,
        Limits(),
        limits.source,
        tracer=tracer,
        drivers=drivers,
        guard=guard,
        others_are_here=is_loopback(address),
    )
    parents = ParentClient(tls.client if tls else None, tracer)
    try:
        yield Means(
            me=host_id,
            tasks=tasks,
            parents=parents,
            sources=sources,
            schedulers=schedulers,
            limits=limits,
            tracer=tracer,
        )
    finally:
        parents.close()
        await sources.aclose()


def _schedulers(settings: Settings, host: ScheduledHost) -> Schedulers:
    """Those that are known, configured or named by the manager; grpc is loaded for them only."""
    known, may_be_named = known_schedulers(settings), bool(settings.managers)
    if not known and not may_be_named:
        return Schedulers((), host, None, None)
    try:
        from cafs.daemon.grpc_client import LinkTls  # noqa: PLC0415 - see above
        from cafs.p2p.scheduler_link import Outbox, converse  # noqa: PLC0415 - see above
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[snapshotter]'") from e
    files = settings.peer_certificate, settings.peer_key, settings.peer_ca
    tls = LinkTls(*map(Path, files)) if all(files) else None
    return Schedulers(known, host, partial(converse, tls=tls), Outbox, more_to_come=may_be_named)


def _reached_at(settings: Settings, listener: socket.socket) -> str:
    """Where other hosts find the upload server."""
    if settings.peer_address:
        return settings.peer_address
    host, port = listener.getsockname()[:2]
    if (settings.schedulers or settings.managers) and ip_address(host).is_unspecified:
        raise UsageError("peer_listen is every address of this host: peer_address must say which others use")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
