"""The mount server: what the supervisor forks. Composes layers, chunk service, session and control socket.

Everything heavy (trio, LMDB, the registry client) is opened here, in the forked process. A server that takes
over finds everything written down and asks nobody.

Tasks: the session runs until the mount is gone, and then everything else is cancelled. Failures of
prefetching, statistics and single requests are logged and disturb no reader.
"""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import trio

from cafs.core.profile import Profile
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import CafsError
from cafs.fetch.journal import Journal
from cafs.fetch.learned_profiles import LearnedProfiles
from cafs.fetch.limits import FetchLimits
from cafs.fetch.local_peer import LocalPeer
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.resident import allocate_from_one_arena
from cafs.fetch.service import ChunkService
from cafs.fuse.flat import FIRST_LAYER_NODE
from cafs.fuse.holdings import Holdings
from cafs.fuse.session import Session
from cafs.fuse.supervisor import GONE, Turn, claim_unanswered
from cafs.http11.lookups import use_own_lookups
from cafs.node.mount_state import write_json
from cafs.node.mountd.announced import Announced
from cafs.node.mountd.control import Control
from cafs.node.mountd.http_server import serve_http
from cafs.node.mountd.images import FoundImage, Images
from cafs.node.mountd.layers import Layers
from cafs.node.mountd.prefetching import Prefetching
from cafs.node.mountd.starts import Starts
from cafs.node.mountd.state import MountdRequest, RunDirectory
from cafs.node.mountd.vault import Vault
from cafs.node.mountd.watchdog import feed_watchdog
from cafs.oci.registry.pull_secrets import PullSecrets
from cafs.oci.repositories import IDLE_S, Repositories
from cafs.store.chunk_store import ChunkStore
from cafs.store.location import store_directory

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 1.0


@dataclass(frozen=True, slots=True)
class ServerParts:
    """What a server is handed besides its turn on the FUSE descriptor."""

    directory: RunDirectory
    listener: socket.socket
    vault: Vault
    manager: ServiceManager


def serve_layers(parts: ServerParts, turn: Turn) -> int:
    """Serve until the mount is gone. Called in a freshly forked process; returns its exit status."""
    allocate_from_one_arena()
    trio.run(_serve, parts, turn)
    return GONE


async def _serve(parts: ServerParts, turn: Turn) -> None:
    use_own_lookups()
    request = parts.directory.read_request()
    secrets = PullSecrets()
    secrets.restore(parts.vault.read())
    limits, journal = FetchLimits.from_settings(request.settings), Journal(parts.directory.journal)
    repositories = Repositories(request.settings, secrets.sources)
    peer = LocalPeer.of(request.settings)
    learned = LearnedProfiles.of(request.settings, peer)
    with ExitStack() as files:
        store = _open_store(request)
        if store is not None:
            files.enter_context(store)
        async with ChunkService(store, limits, journal, peer) as service, trio.open_nursery() as nursery:
            profiles = Prefetch(request.prefetch).wants_profile
            images = Images(request.settings, repositories, nursery, peer, profiles=profiles)
            layers = _compose_layers(
                parts,
                request,
                service,
                images=images,
                repositories=repositories,
                learned=learned,
                nursery=nursery,
            )
            layers.restore()
            session = Session(turn.descriptor, layers.tree, turn.outstanding)
            claim_unanswered(turn)
            announced = Announced(images.find_named, layers, nursery)
            announced.resume()
            control = Control(
                parts.directory,
                layers,
                service,
                announced=announced,
                secrets=secrets,
                vault=parts.vault,
                can_resend=turn.can_resend,
            )
            nursery.start_soon(serve_http, parts.listener, control.handle)
            nursery.start_soon(layers.resume_prefetching)
            nursery.start_soon(_load_ahead)
            nursery.start_soon(_keep_house, parts.directory, service)
            nursery.start_soon(_close_idle, layers, repositories)
            nursery.start_soon(feed_watchdog, parts.manager, parts.directory.socket)
            parts.manager.tell("READY=1", "STATUS=serving layers")
            await session.run()
            nursery.cancel_scope.cancel()
    await repositories.aclose()


def _compose_layers(
    parts: ServerParts,
    request: MountdRequest,
    service: ChunkService,
    *,
    images: Images,
    repositories: Repositories,
    learned: LearnedProfiles | None,
    nursery: trio.Nursery,
) -> Layers:
    find_learned, starts = None, None
    if learned is not None:
        starts = Starts(learned, nursery)
        service.on_first_read = starts.note_read
        find_learned = partial(_find_learned, learned)
    mode = Prefetch(request.prefetch)
    prefetching = Prefetching(service, images.find_profile, mode, nursery, find_learned)
    return Layers(
        parts.directory,
        service,
        images=images,
        repositories=repositories,
        prefetching=prefetching,
        starts=starts,
        holdings=Holdings(parts.vault.holdings, FIRST_LAYER_NODE),
        nursery=nursery,
    )


async def _find_learned(learned: LearnedProfiles, image: FoundImage) -> Profile | None:
    return await learned.find(image.name.manifest)


def _open_store(request: MountdRequest) -> ChunkStore | None:
    """The node's chunk store. Layers are served without one, only not as fast."""
    settings = request.settings
    try:
        return ChunkStore.open(store_directory(settings.cache_dir), settings.store_quota_bytes)
    except CafsError as e:
        log.warning("serving without the chunk store: %s", e)
        return None


async def _load_ahead() -> None:
    """Load what a layer that is new to this node needs: containerd would wait 0.1 s for numpy then.

    The codec is what ``getaddrinfo`` loads for its first name.
    """
    for module in ("cafs.index.check", "encodings.idna"):
        await trio.to_thread.run_sync(import_module, module)


async def _close_idle(layers: Layers, repositories: Repositories) -> None:
    """Let go of connections that nobody needs."""
    while True:
        await trio.sleep(IDLE_S)
        await repositories.close_idle(layers.repositories_used())


async def _keep_house(directory: RunDirectory, service: ChunkService) -> None:
    """What is done now and then: statistics written, memory given back."""
    before = None
    while True:
        now = service.stats().to_json()
        if now != before:
            await trio.to_thread.run_sync(_tidy, directory, service, now)
            before = now
        await trio.sleep(HOUSEKEEPING_S)


def _tidy(directory: RunDirectory, service: ChunkService, stats: dict[str, object]) -> None:
    service.release_pages()
    try:
        write_json(directory.stats, stats)
    except OSError as e:
        log.info("cannot write %s: %s", directory.stats, e)
