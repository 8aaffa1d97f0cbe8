"""``cafs peer``: serves with what ``composition`` opens, until it is told to end.

Start: the run directory is locked, the stores are opened, both sockets are served, and systemd hears that
we are ready. End (SIGTERM, SIGINT): connections are closed, which sends mounts to their registries and other
hosts elsewhere; what was brought and not stored yet is brought again. SIGHUP reads the limits anew.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

import trio

from cafs.core.settings import Settings
from cafs.core.statistics.ledger import Ledger
from cafs.daemon.directory_lock import locked
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import CafsError, StorageError
from cafs.fetch.local_peer import peer_socket
from cafs.fetch.resident import (
    allocate_from_one_arena,
    give_back_memory,
    keep_freed_memory,
    release_mapped_pages,
)
from cafs.http11.lookups import use_own_lookups
from cafs.http11.metrics_port import metrics_served
from cafs.http11.server import serve_http
from cafs.p2p import node_server, upload_server
from cafs.p2p.attached import peer_attached
from cafs.p2p.composition import Composed, composed
from cafs.p2p.live_limits import LiveLimits, limits_of
from cafs.p2p.live_quotas import keep_quotas
from cafs.p2p.manager import Obedience
from cafs.p2p.named_schedulers import NamedSchedulers
from cafs.p2p.node_server import NodeParts, NodeServer
from cafs.p2p.peer_figures import PeerFigures
from cafs.p2p.schedulers import Schedulers
from cafs.p2p.task_store import TaskStore
from cafs.p2p.upload_server import UploadServer
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


async def run(settings: Settings, options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CafsError: it cannot start.
    """
    allocate_from_one_arena()
    use_own_lookups()
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
    async with (
        composed(settings, seed=options.seed) as peer,
        metrics_served(options.metrics, peer.figures.metrics),
    ):
        _serve_requests(settings, peer)
        _keep_up(peer)
        obedience = Obedience(limits_of(settings), peer.limits, peer.means.policy, peer.profiles)
        with _attached(settings, peer, obedience):
            yield peer.limits, obedience
            await _say_goodbye(peer.schedulers)
            peer.nursery.cancel_scope.cancel()


def _serve_requests(settings: Settings, peer: Composed) -> None:
    """Of this node's programs, and of other hosts."""
    parts = NodeParts(
        tasks=peer.tasks,
        exchange=peer.exchange,
        limits=peer.limits,
        store=store_directory(settings.cache_dir),
        distributor=peer.engine,
        profiles=peer.profiles,
        status=peer.figures.status,
        metrics=peer.figures.metrics,
    )
    upload = UploadServer(peer.tasks, peer.uploads, peer.exchange, peer.engine, peer.tracer)
    tls = peer.tls.server if peer.tls else None
    start = peer.nursery.start_soon
    start(serve_http, peer.node, NodeServer(parts).handle, node_server.LIMITS)
    start(serve_http, peer.others, upload.handle, upload_server.LIMITS, tls)


def _keep_up(peer: Composed) -> None:
    """What runs beside it."""
    start = peer.nursery.start_soon
    start(peer.schedulers.run)
    start(_tell_of_lost, peer.tasks, peer.schedulers)
    start(keep_quotas, peer.limits, peer.tasks, peer.chunks)
    start(_keep_house, peer.chunks, peer.figures)


def _attached(settings: Settings, peer: Composed, obedience: Obedience) -> AbstractContextManager[None]:
    """To the manager, while the context lasts."""
    figures = peer.figures
    return peer_attached(
        settings,
        peer.host.facts(),
        obedience,
        profiles=peer.profiles,
        on_schedulers=NamedSchedulers(settings, peer.schedulers).take,
        schedulers=peer.schedulers.asked,
        ledger=Ledger(secrets.token_hex(16), figures.amounts, figures.levels, peer.means.shares),
        work=Work(
            settings=settings,
            engine=peer.engine,
            tasks=peer.tasks,
            exchange=peer.exchange,
            chunks=peer.chunks,
            repositories=peer.repositories,
            profiles=peer.profiles,
            nursery=peer.nursery,
        ),
    )


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
        await trio.to_thread.run_sync(release_mapped_pages, chunks)
        await trio.to_thread.run_sync(give_back_memory)
