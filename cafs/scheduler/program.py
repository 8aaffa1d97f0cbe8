"""``cafs scheduler``: composes the program and runs it until it is told to end.

End (SIGTERM, SIGINT): health says so, hosts are told to take the next scheduler, and what they were sent
before still reaches them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import grpc

from cafs.core.scheduling.limits import Limits
from cafs.daemon.garbage import collect_rarely
from cafs.daemon.grpc_health import HealthService
from cafs.daemon.grpc_server import Tls, listen, new_server
from cafs.daemon.grpc_words import tls_words
from cafs.daemon.metrics_server import metrics_served
from cafs.daemon.service_manager import ServiceManager
from cafs.scheduler.manager import Managers, manager_attached
from cafs.scheduler.relay import HostRelay
from cafs.scheduler.service import SERVICE, SchedulerService
from cafs.scheduler.streams import Hub
from cafs.scheduler.tally import Tally

log = logging.getLogger(__name__)

_GRACE_S = 3.0
_MESSAGE_BYTES = 64 << 20
"""A hello of 4,096 tasks with all digests would be larger: such a host tells of fewer digests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    host: str
    port: int
    limits: Limits
    tls: Tls | None = None
    metrics: tuple[str, int] | None = None
    managers: Managers | None = None
    queue_bytes: int = 8 << 20
    """Of messages that wait for one host."""


async def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CafsError: it cannot start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    collect_rarely()
    systemd = ServiceManager(os.environ)
    async with AsyncExitStack() as stack:
        if options.tls is not None:
            stack.enter_context(tls_words())
        port = await stack.enter_async_context(served(options))
        systemd.tell("READY=1")
        log.info("scheduling on %s:%d", options.host, port)
        await stop.wait()
        systemd.tell("STOPPING=1")


@asynccontextmanager
async def served(options: Options) -> AsyncIterator[int]:
    """Serve while the context lasts; yields the port.

    Raises:
        CafsError: the address cannot be had, or a file of TLS cannot be read.
    """
    hub = Hub(options.limits, Tally(), queue_bytes=options.queue_bytes)
    health = HealthService(SERVICE)
    mutual = options.tls is not None and options.tls.mutual
    server = new_server(_MESSAGE_BYTES)
    service = SchedulerService(hub, mutual_tls=mutual)
    relay = HostRelay(mutual_tls=mutual)
    passes_on = (relay.handlers(),) if options.managers is not None else ()
    server.add_generic_rpc_handlers((service.handlers(), health.handlers(), *passes_on))
    port = listen(server, options.host, options.port, options.tls)
    await server.start()
    ticks = asyncio.create_task(hub.run_ticks())
    try:
        async with AsyncExitStack() as stack:
            if options.metrics is not None:

                async def render() -> bytes:
                    return hub.tally.render(hub.core.state, hub.connected, relay.hosts)

                place = await stack.enter_async_context(metrics_served(*options.metrics, render))
                log.info("metrics on port %d", place)
            if options.managers is not None:
                attached = manager_attached(
                    options.managers, hub, (options.host, port), options.tls, relay.wake
                )
                await stack.enter_async_context(relay.kept_up(stack.enter_context(attached)))
            yield port
    finally:
        health.end()
        ticks.cancel()
        hub.end_all(grpc.StatusCode.UNAVAILABLE, "this scheduler ends: take the next one")
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await service.drained()
                await relay.drained()
        await server.stop(_GRACE_S)
