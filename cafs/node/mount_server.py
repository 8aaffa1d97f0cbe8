"""The mount server: what a supervisor forks. Composes layers, chunk service, tree and session.

Everything heavy (trio, LMDB, the registry client) is imported and opened here, in the forked process, and
nowhere else in a mount. The first server opens the image and tells the waiting command by ``announce``; a
server that takes over finds everything written down and asks nobody.

Tasks: the session runs until the mount is gone, and then everything else is cancelled. Failures of
prefetch, recording and statistics are logged and disturb no reader.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import trio

from cafs.errors import CafsError
from cafs.fetch.check_process import CheckProcess
from cafs.fetch.image_start import ImageStart
from cafs.fetch.journal import FILE_NAME, Journal
from cafs.fetch.learned_profiles import LearnedProfiles
from cafs.fetch.limits import FetchLimits
from cafs.fetch.local_peer import LocalPeer
from cafs.fetch.open_image import Watcher
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.reader import LayerReader
from cafs.fetch.resident import allocate_from_one_arena
from cafs.fetch.service import ChunkService
from cafs.fuse.session import Session
from cafs.fuse.supervisor import GONE, Turn, claim_unanswered
from cafs.http11.lookups import use_own_lookups
from cafs.node.mount_state import MountDirectory, MountRequest, write_json
from cafs.node.opening import ReadyImage, find_image_profile
from cafs.node.served_tree import served_tree
from cafs.store.chunk_store import ChunkStore
from cafs.store.location import store_directory

log = logging.getLogger(__name__)

STATS_EVERY_S = 1.0
MAX_LOG_BYTES = 4 << 20

Opener = Callable[[MountDirectory, MountRequest, Watcher], Awaitable[ReadyImage]]


def serve_mount(
    directory: MountDirectory,
    turn: Turn,
    opener: Opener,
    announce: Callable[[dict[str, Any]], None],
    channel: socket.socket | None,
) -> int:
    """Serve until the mount is gone. Called in a freshly forked process.

    Args:
        directory: State of the mount.
        turn: The descriptor, and whether another server held it before.
        opener: Opens the layers.
        announce: Told about the image once requests are answered.
        channel: To a process that checks indexes.

    Returns:
        The exit status.

    Raises:
        CafsError: the image cannot be opened.
    """
    request = directory.read_request()
    allocate_from_one_arena()
    trio.run(_serve, directory, request, turn, opener, announce, channel)
    return GONE


async def _serve(  # noqa: PLR0917 - trio.run hands arguments over by position
    directory: MountDirectory,
    request: MountRequest,
    turn: Turn,
    opener: Opener,
    announce: Callable[[dict[str, Any]], None],
    channel: socket.socket | None,
) -> None:
    use_own_lookups()
    journal = Journal(directory.path / FILE_NAME)
    limits = FetchLimits.from_settings(request.settings)
    peer = LocalPeer.of(request.settings)
    with ExitStack() as files:
        store = _open_store(request)
        if store is not None:
            files.enter_context(store)
        async with ChunkService(store, limits, journal, peer) as service, trio.open_nursery() as nursery:
            checker = CheckProcess(channel) if channel is not None else None
            learned = LearnedProfiles.of(request.settings, peer)
            start = ImageStart(service, Prefetch(request.prefetch), nursery, checker, learned)
            image = await opener(directory, request, start)
            if checker is not None:
                checker.dismiss()
            readers = start.readers
            if readers is None:  # a server that takes over opens what was written down
                readers = _add_layers(service, image)
                nursery.start_soon(_prefetch, service, request, image)
            if request.record is not None:
                _record(service, request.record)
            session = Session(turn.descriptor, served_tree(request.driver, image, readers), turn.outstanding)
            claim_unanswered(turn)
            announce(image.announcement(is_cold=start.is_cold))
            nursery.start_soon(_keep_house, directory, service)
            await session.run()
            nursery.cancel_scope.cancel()
        _save_stats(directory, service)
    await image.repository.aclose()


def _add_layers(service: ChunkService, image: ReadyImage) -> list[LayerReader]:
    return [service.add_layer(layer.index, [layer.source], layer.diff_id) for layer in image.layers]


def _record(service: ChunkService, path: Path) -> None:
    """The command has looked at the file; what has become of it since must not end who answers readers."""
    try:
        service.start_recording(path)
    except CafsError as e:
        log.warning("the order of first accesses is not recorded: %s", e)


def _open_store(request: MountRequest) -> ChunkStore | None:
    """The node's chunk store. A mount works without one, only not as fast."""
    settings = request.settings
    try:
        return ChunkStore.open(store_directory(settings.cache_dir), settings.store_quota_bytes)
    except CafsError as e:
        log.warning("mounting without the chunk store: %s", e)
        return None


async def _prefetch(service: ChunkService, request: MountRequest, image: ReadyImage) -> None:
    """The profile lies in the registry: looking for it must keep no reader waiting."""
    mode = Prefetch(request.prefetch)
    profile = None
    if mode.wants_profile:
        try:
            profile = await find_image_profile(image)
        except CafsError as e:
            log.info("no access profile: %s", e)
    service.start_prefetch(mode, profile)


async def _keep_house(directory: MountDirectory, service: ChunkService) -> None:
    """What is done now and then: statistics written, memory given back, the log kept short."""
    before: dict[str, Any] = {}
    while True:
        now = service.stats().to_json()
        if now != before:
            await trio.to_thread.run_sync(_tidy, directory, service)
            before = now
        await trio.sleep(STATS_EVERY_S)


def _tidy(directory: MountDirectory, service: ChunkService) -> None:
    _save_stats(directory, service)
    service.release_pages()
    with suppress(OSError):
        # Written with O_APPEND, so that it can be emptied under its writers; it lies in memory (/run).
        if directory.log.stat().st_size > MAX_LOG_BYTES:
            os.truncate(directory.log, 0)


def _save_stats(directory: MountDirectory, service: ChunkService) -> None:
    try:
        write_json(directory.stats, service.stats().to_json())
    except OSError as e:
        log.info("cannot write %s: %s", directory.stats, e)
