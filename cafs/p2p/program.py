"""``cafs peer``: composes the program and runs it until it is told to end.

Start: the run directory is locked, the stores are opened, both sockets are served, and systemd hears that
we are ready. End (SIGTERM, SIGINT): connections are closed, which sends mounts to their registries and other
hosts elsewhere; what was brought and not stored yet is brought again. SIGHUP reads the limits anew.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import trio

from cafs.core.settings import Settings
from cafs.core.statistics.ledger import Ledger
from cafs.core.swarm.ids import HostId
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.tracing import Tracer
from cafs.daemon.directory_lock import locked
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import CafsError, StateError, StorageError, UsageError
from cafs.fetch.local_peer import peer_socket
from cafs.fetch.resident import (
    allocate_from_one_arena,
    give_back_memory,
    keep_freed_memory,
    release_mapped_pages,
)
from cafs.http11.metrics_port import metrics_served
from cafs.http11.server import serve_http
from cafs.oci.registry.exchange import Patience
from cafs.oci.registry.pull_secrets import PullSecrets
from cafs.oci.repositories import Repositories
from cafs.p2p import node_server, upload_server
from cafs.p2p.attached import peer_attached
from cafs.p2p.blob_swarms import BlobSwarms
from cafs.p2p.chunk_exchange import ChunkExchange
from cafs.p2p.chunk_peers import ChunkPeers
from cafs.p2p.drivers import Drivers
from cafs.p2p.engine import Engine
from cafs.p2p.host import ScheduledHost
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.live_quotas import keep_quotas
from cafs.p2p.manager import Obedience
from cafs.p2p.means import Means
from cafs.p2p.mutual_tls import HostTls, load_host_tls
from cafs.p2p.named_schedulers import NamedSchedulers, known_schedulers
from cafs.p2p.node_server import NodeParts, NodeServer
from cafs.p2p.parent_client import ParentClient
from cafs.p2p.peer_figures import PeerFigures
from cafs.p2p.places import keep_host_id, listen_tcp, listen_unix
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.schedulers import Schedulers
from cafs.p2p.shared_blobs import SharedBlobs
from cafs.p2p.source import Limits, Sources
from cafs.p2p.task_store import TaskStore, open_task_store
from cafs.p2p.telemetry import tracing
from cafs.p2p.upload_server import UploadServer
from cafs.p2p.uploads import Uploads
from cafs.p2p.work import Work
from cafs.store.chunk_store import ChunkStore
from cafs.store.location import store_directory

log = logging.getLogger(__name__)

_HOUSEKEEPING_S = 5.0
_GOODBYE_S = 0.1
"""For the last word to schedulers to leave this host."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    seed: bool
    reload: Callable[[], Settings]
    """Reads the configuration again."""
    note: Callable[[str], None]
    """Tells the user something."""
    metrics: tuple[str, int] | None = None
    """Where figures are served."""


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


async def run(settings: Settings, options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CafsError: it cannot start.
    """
    allocate_from_one_arena()
    systemd = ServiceManager(os.environ)
    keep_freed_memory()
    with (
        locked(settings.run_dir / "peer", "cafs peer"),
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals,
    ):
        async with _served(settings, options) as (limits, obedience):
            systemd.tell("READY=1")
            options.note(f"peer ready on {peer_socket(settings.run_dir)}, others on {settings.peer_listen}")
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                _reload(options, limits, obedience)
            systemd.tell("STOPPING=1")


def _reload(options: Options, limits: LiveLimits, obedience: Obedience) -> None:
    before = limits.now
    try:
        obedience.read_anew(limits_of(options.reload()))
    except CafsError as e:
        log.warning("the limits stay as they are: %s", e)
    else:
        log.info("the configuration was read: %s", limits.now.difference(before) or "no limit has changed")


@asynccontextmanager
async def _served(settings: Settings, options: Options) -> AsyncIterator[tuple[LiveLimits, Obedience]]:
    tls, path = load_host_tls(settings), peer_socket(settings.run_dir)
    limits = LiveLimits(limits_of(settings))
    uploads = Uploads(limits)
    host_id = keep_host_id(settings.cache_dir / "peer")
    async with AsyncExitStack() as stack:
        tracer = await stack.enter_async_context(tracing("cafs-seed" if options.seed else "cafs-peer"))
        node = stack.enter_context(listen_unix(path))
        others = stack.enter_context(listen_tcp(settings.peer_listen))
        host = ScheduledHost(
            settings, host_id, _reached_at(settings, others), limits, uploads, seed=options.seed
        )
        schedulers = _schedulers(settings, host)
        tasks = await stack.enter_async_context(
            open_task_store(settings.cache_dir / "peer" / "tasks", settings.task_quota_bytes)
        )
        means = await stack.enter_async_context(
            _means(
                settings,
                host_id=host_id,
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
                concurrency=settings.fetch_concurrency,
                tracer=tracer,
            )
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        host.engine = engine = Engine(means, nursery)
        profiles = ProfileRelay(has_manager=bool(settings.managers), is_on=settings.learned_profiles)
        figures = PeerFigures(means, engine, exchange, uploads, profiles, seed=options.seed)
        await stack.enter_async_context(metrics_served(options.metrics, figures.metrics))
        parts = NodeParts(
            tasks=tasks,
            exchange=exchange,
            limits=limits,
            store=store_directory(settings.cache_dir),
            distributor=engine,
            profiles=profiles,
            status=figures.status,
            metrics=figures.metrics,
        )
        upload = UploadServer(tasks, uploads, exchange, engine, tracer)
        nursery.start_soon(serve_http, node, NodeServer(parts).handle, node_server.LIMITS)
        nursery.start_soon(
            serve_http, others, upload.handle, upload_server.LIMITS, tls.server if tls else None
        )
        nursery.start_soon(schedulers.run)
        nursery.start_soon(_tell_of_lost, tasks, schedulers)
        nursery.start_soon(keep_quotas, limits, tasks, chunks)
        nursery.start_soon(_keep_house, chunks, figures)
        obedience = Obedience(limits_of(settings), limits, means.policy, profiles)
        named = NamedSchedulers(settings, schedulers)
        ledger = Ledger(secrets.token_hex(16), figures.amounts, figures.levels, means.shares)
        work = Work(
            settings=settings,
            engine=engine,
            tasks=tasks,
            exchange=exchange,
            chunks=chunks,
            repositories=repositories,
            nursery=nursery,
        )
        stack.enter_context(
            peer_attached(
                settings,
                host.facts(),
                obedience,
                profiles=profiles,
                on_schedulers=named.take,
                ledger=ledger,
                work=work,
            )
        )
        yield limits, obedience
        await _say_goodbye(schedulers)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _means(
    settings: Settings,
    *,
    host_id: HostId,
    tasks: TaskStore,
    schedulers: Schedulers,
    limits: LiveLimits,
    tls: HostTls | None,
    tracer: Tracer,
) -> AsyncIterator[Means]:
    drivers = Drivers(tuple(map(Path, settings.shared_directories)))
    patience = Patience.from_settings(settings)
    sources = Sources(patience, Limits(), limits.source, tracer=tracer, drivers=drivers)
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
        from cafs.daemon.grpc_client import LinkTls  # noqa: PLC0415
        from cafs.p2p.scheduler_link import Outbox, converse  # noqa: PLC0415
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


async def _tell_of_lost(tasks: TaskStore, schedulers: Schedulers) -> None:
    while True:
        schedulers.drop(await tasks.lost())


async def _say_goodbye(schedulers: Schedulers) -> None:
    if schedulers.connected:
        schedulers.say_goodbye()
        await trio.sleep(_GOODBYE_S)


async def _keep_house(chunks: ChunkStore, figures: PeerFigures) -> None:
    while True:
        try:
            figures.store_bytes = (await trio.to_thread.run_sync(chunks.stats)).used_bytes
        except StorageError as e:
            log.debug("the chunk store cannot be read: %s", e)
        await trio.sleep(_HOUSEKEEPING_S)
        await trio.to_thread.run_sync(release_mapped_pages)
        await trio.to_thread.run_sync(give_back_memory)
