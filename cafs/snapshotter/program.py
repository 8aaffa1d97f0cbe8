"""``cafs snapshotter``: composes the program and runs it until it is told to end.

Owns the order of start and end. Start: the root is locked, and we listen, so that calls wait; the root is
tidied up; mounts that survived are taken over; calls are answered; then systemd hears that we are ready, and
what is missing is mounted meanwhile: a call that needs a layer waits for it. End (SIGTERM, SIGINT): no new
calls, those under way get a few seconds; under systemd new ones wait for the next program. Mounts stay:
containers use them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc

from cafs import __version__
from cafs.control_socket.client import MountServerClient
from cafs.cri.image_service import ImageServiceProxy
from cafs.daemon.metrics_server import metrics_served
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import CafsError, StateError
from cafs.snapshotter.deleter import Deleter
from cafs.snapshotter.front_door import LISTENER, free_socket, open_listener, passed_on
from cafs.snapshotter.layer_mounts import LayerMounts, MountedLayers
from cafs.snapshotter.ledger import Ledger
from cafs.snapshotter.metadata import Metadata
from cafs.snapshotter.mount_server import MountServer
from cafs.snapshotter.mounts import Paths
from cafs.snapshotter.opening import (
    DATABASE,
    lock_root,
    missing_directories,
    open_metadata,
    prepare_root,
    refresh_records,
)
from cafs.snapshotter.reserve import Reserve
from cafs.snapshotter.service import SnapshotsService
from cafs.snapshotter.snapshotter import Snapshotter
from cafs.snapshotter.tally import Tally
from cafs.snapshotter.watchdog import feed_watchdog
from cafs.snapshotter.workers import Workers

log = logging.getLogger(__name__)

_GRACE_S = 5.0
_WATCH_S = 5.0
"""How soon a mount server that lost its mount is noticed when nobody asks for a layer."""
_SECRETS_PATIENCE_S, _FIGURES_PATIENCE_S = 5.0, 5.0
"""A pull waits for the first, a scrape for the second."""
_CONCURRENT_CALLS = 512
_INDEX_PARAMETER = Path("/sys/module/overlay/parameters/index")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    address: Path
    """The socket for containerd."""
    root: Path
    """Snapshots and mount points. Short: its length counts once for each layer of a mount."""
    mountd: Path
    """The mount server's control socket; its FUSE mount is beside it."""
    containerd: Path | None = None
    """containerd's socket, where CRI's image service is passed on to; None: it is not served."""
    metrics: tuple[str, int] | None = None
    """Host and port; None: not served."""


class Companion(Protocol):
    """What is served beside containerd for as long as this is."""

    def begin(self) -> None:
        """Serve; called in a thread.

        Raises:
            StateError: that cannot be.
        """
        ...

    def end(self) -> None:
        """Stop, which may take seconds; called in a thread, while calls of containerd are still answered."""
        ...


async def run(options: Options, handed_over: Mapping[str, int], companion: Companion) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        options: What the command line says.
        handed_over: Descriptors that the program before this one has left with systemd.
        companion: Runs as long as calls are answered.

    Raises:
        CafsError: it cannot start.
    """
    os.umask(0o022)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    systemd = ServiceManager(os.environ)
    lock = _take(options)
    try:
        listener = open_listener(options.address, handed_over)
        systemd.store({LISTENER: listener.fileno()})
        async with _opened(options) as snapshotter:
            # Before anybody can ask for a layer: what is mounted already would be mounted anew.
            missing = await snapshotter.layers.adopt()
            async with (
                _served(snapshotter, options, listener),
                _metrics(snapshotter, options),
                _accompanied(companion),
            ):
                systemd.tell("READY=1")
                log.info(
                    "version %s serves on %s; layers to mount: %d", __version__, options.address, len(missing)
                )
                watch = asyncio.create_task(keep_mounted(snapshotter.layers))
                alive = asyncio.create_task(feed_watchdog(snapshotter.workers, systemd.tell))
                await stop.wait()
                systemd.tell("STOPPING=1")
                watch.cancel()
                alive.cancel()
        if not systemd.is_there:  # which else keeps it
            options.address.unlink(missing_ok=True)
    finally:
        os.close(lock)


def _take(options: Options) -> int:
    """Make the root ours."""
    try:
        prepare_root(options.root)
        options.address.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as e:
        raise StateError(f"cannot make {e.filename}: {e.strerror}") from e
    return lock_root(options.root)


@asynccontextmanager
async def _opened(options: Options) -> AsyncIterator[Snapshotter]:
    paths = Paths(options.root)
    reserve = Reserve(paths.reserve)
    reserve.release()  # the database needs room to be opened, too
    metadata = open_metadata(paths)
    workers, deleter = Workers(), Deleter(paths)
    try:
        server = MountServer(options.mountd)
        mounted = MountedLayers(options.mountd.parent / "fuse")
        ledger = Ledger(metadata, paths, time.time_ns, mounted.missing, reserve)
        layers = LayerMounts(mounted, ledger, workers, server, paths)
        _tidy_up(metadata, ledger, paths)
        reserve.hold()
        deleter.request()
        index_off = _knows_index_off()
        reader = Metadata(options.root / DATABASE, readonly=True)
        try:
            yield Snapshotter(ledger, reader, mounted, layers, workers, deleter, paths, index_off, Tally())
        finally:
            workers.close()
            deleter.close()
            reader.close()
    finally:
        metadata.close()


def _knows_index_off() -> bool:
    return _INDEX_PARAMETER.exists()


def _tidy_up(metadata: Metadata, ledger: Ledger, paths: Paths) -> None:
    ledger.sweep()
    refresh_records(metadata, paths)
    for row in missing_directories(metadata, paths):
        log.error(
            "files of snapshot %s (%s) are gone: remove the image and pull it again",
            row.info.name,
            paths.snapshot(row.id),
        )


@asynccontextmanager
async def _served(snapshotter: Snapshotter, options: Options, listener: socket.socket) -> AsyncIterator[None]:
    inner = snapshotter.paths.socket
    free_socket(inner)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=_CONCURRENT_CALLS)
    server.add_generic_rpc_handlers((SnapshotsService(snapshotter, snapshotter.tally).handlers(),))
    images = None
    if options.containerd is not None:
        mountd = MountServerClient(options.mountd, patience_s=_SECRETS_PATIENCE_S)
        images = ImageServiceProxy(options.containerd, mountd.put_credentials)
        server.add_generic_rpc_handlers((images,))
    try:
        server.add_insecure_port(f"unix:{inner}")
    except RuntimeError as e:
        raise StateError(f"cannot serve on {inner}: {e}") from e
    await server.start()
    try:
        with passed_on(listener, inner):
            yield
    finally:
        await server.stop(_GRACE_S)
        if images is not None:
            await images.aclose()


@asynccontextmanager
async def _metrics(snapshotter: Snapshotter, options: Options) -> AsyncIterator[None]:
    if options.metrics is None:
        yield
        return
    mountd = MountServerClient(options.mountd, patience_s=_FIGURES_PATIENCE_S, away_patience_s=0)

    async def render() -> bytes:
        own = snapshotter.tally.render(len(snapshotter.mounted))
        try:
            return own + await mountd.metrics()
        except CafsError as e:
            log.info("no figures of the mount server: %s", e)
            return own

    async with metrics_served(*options.metrics, render) as port:
        log.info("metrics on port %d", port)
        yield


@asynccontextmanager
async def _accompanied(companion: Companion) -> AsyncIterator[None]:
    try:
        await asyncio.to_thread(companion.begin)
    except StateError as e:
        log.warning("pulls will take longer: %s", e)
    try:
        yield
    finally:
        await asyncio.to_thread(companion.end)


async def keep_mounted(layers: LayerMounts, *, pause_s: float = _WATCH_S) -> None:
    """Mount what is in use and is not mounted: after a reboot, or when the mount server lost its mount.

    Whatever goes wrong, it looks again: containers that run ask for nothing, and have nobody else.
    """
    told = ""
    strangers = True
    while True:
        try:
            if needed := await layers.needed():
                await layers.restore(needed)
                log.info("layers mounted again: %d", len(needed))
            if strangers:
                await layers.forget_strangers()
                strangers = False
            told = ""
        except (CafsError, OSError) as e:
            if str(e) != told:
                told = str(e)
                log.warning("%s", told)
        except Exception as e:  # SQLite's errors, too
            if str(e) != told:
                told = str(e)
                log.exception("layers cannot be mounted again in an unforeseen way")
        await asyncio.sleep(pause_s)
