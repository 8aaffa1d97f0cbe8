"""``cafs manager``: composes the program and runs it until it is told to end.

Start: the database is brought to the form of this version, then gRPC, REST and figures are served, and
systemd hears that we are ready. End (SIGTERM, SIGINT): health says so, requests under way are answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.engine import URL

from cafs.daemon.grpc_health import HealthService
from cafs.daemon.grpc_server import Tls, listen, new_server
from cafs.daemon.metrics_server import metrics_served
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import CafsError
from cafs.manager.database import Database
from cafs.manager.http.app import Parts, make_app
from cafs.manager.http.server import http_served, site_of
from cafs.manager.migrate import upgrade
from cafs.manager.replica import ThisReplica
from cafs.manager.tally import Tally

log = logging.getLogger(__name__)

_GRACE_S = 3.0
_MESSAGE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line and the configuration say."""

    database: URL
    services: tuple[str, int]
    """Where schedulers, seeds and peers are served (gRPC)."""
    rest: tuple[str, int]
    tls: Tls | None = None
    metrics: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it serves."""

    services: int
    rest: int


async def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CafsError: it cannot start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    systemd = ServiceManager(os.environ)
    async with served(options) as ports:
        systemd.tell("READY=1")
        log.info("services on %s:%d", options.services[0], ports.services)
        log.info("REST on %s", site_of(options.rest[0], ports.rest, options.tls))
        await stop.wait()
        systemd.tell("STOPPING=1")


@asynccontextmanager
async def served(options: Options) -> AsyncIterator[Ports]:
    """Serve while the context lasts.

    Raises:
        CafsError: the database or an address cannot be had, or a file of TLS cannot be read.
    """
    tally = Tally()
    async with AsyncExitStack() as stack:
        database = stack.enter_context(Database(options.database))
        await asyncio.to_thread(upgrade, database)
        replica = ThisReplica(database, tally)
        _, served_app = make_app(Parts(database=database, tally=tally))
        rest = await stack.enter_async_context(http_served(served_app, *options.rest, options.tls))
        services = await stack.enter_async_context(_services_served(options))
        await stack.enter_async_context(_living(replica, site_of(options.rest[0], rest, options.tls)))
        if options.metrics is not None:

            async def render() -> bytes:
                return tally.render(replica.alive)

            place = await stack.enter_async_context(metrics_served(*options.metrics, render))
            log.info("metrics on port %d", place)
        yield Ports(services, rest)


@asynccontextmanager
async def _services_served(options: Options) -> AsyncIterator[int]:
    health = HealthService()
    server = new_server(_MESSAGE_BYTES)
    server.add_generic_rpc_handlers((health.handlers(),))
    port = listen(server, *options.services, options.tls)
    await server.start()
    try:
        yield port
    finally:
        health.end()
        await server.stop(_GRACE_S)


@asynccontextmanager
async def _living(replica: ThisReplica, address: str) -> AsyncIterator[None]:
    await asyncio.to_thread(replica.join, address)
    living = asyncio.create_task(replica.live(lambda _session, _gone: None, lambda: None))
    try:
        yield
    finally:
        living.cancel()
        with suppress(asyncio.CancelledError):
            await living
        with suppress(CafsError):
            await asyncio.to_thread(replica.leave)
