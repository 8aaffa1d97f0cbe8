"""``cafs manager``: composes the program and runs it until it is told to end.

Start: the database is brought to the form of this version, then gRPC, REST and figures are served, and
systemd hears that we are ready. End (SIGTERM, SIGINT): health says so, requests under way are answered.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address

from sqlalchemy.engine import URL
from starlette.types import ASGIApp

from cafs.daemon.garbage import collect_hourly, collect_rarely
from cafs.daemon.grpc_client import LinkTls
from cafs.daemon.grpc_server import Tls
from cafs.daemon.metrics_server import metrics_served
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import CafsError
from cafs.manager.database import Database
from cafs.manager.http.app import make_app
from cafs.manager.http.parts import Parts, link_to
from cafs.manager.http.paths import CONSOLE
from cafs.manager.http.server import http_served, listening, site_of
from cafs.manager.in_thread import in_thread
from cafs.manager.jobs.conversions import Conversions, Converter
from cafs.manager.migrate import upgrade
from cafs.manager.oidc.client import ProviderClient
from cafs.manager.oidc.provider import Provider
from cafs.manager.replica import Pace, ThisReplica
from cafs.manager.schedulers import PATIENCE_S, Schedulers
from cafs.manager.services.roll import Roll
from cafs.manager.services.serving import cancelled_at_end, services_served
from cafs.manager.tally import Tally
from cafs.manager.users.accounts import add_link, is_new
from cafs.manager.users.passwords import Passwords

log = logging.getLogger(__name__)

_SWITCH_S = 0.0002
"""A thread that writes statistics holds the interpreter for no longer while another one has something to do.

An answer of REST asks for the interpreter some dozens of times, after each row of the database too, and
whenever another thread computes it waits for so long.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line and the configuration say."""

    database: URL
    services: tuple[str, int]
    """Where schedulers, seeds and peers are served (gRPC)."""
    rest: tuple[str, int]
    tls: Tls | None = None
    metrics: tuple[str, int] | None = None
    site: str = ""
    """Where people reach REST, for links; empty: where it listens."""
    provider: Provider | None = None
    """OpenID provider at which people may sign in."""
    new_admin: bool = False
    """Make a link for one more administrator."""
    console: bool = False
    """Serve the console, if its library is there. At most one manager of a process may."""
    converter: Converter = field(default_factory=Converter)
    pace: Pace = field(default_factory=Pace)
    scheduler_patience_s: float = PATIENCE_S
    """For what schedulers are asked."""
    passwords: Passwords = field(default_factory=Passwords)
    say: Callable[[str], None] = log.info
    """Tells whoever started it something."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it serves."""

    services: int
    rest: int
    site: str
    """Of REST, for people."""


async def run(options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CafsError: it cannot start.
    """
    sys.setswitchinterval(_SWITCH_S)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    systemd = ServiceManager(os.environ)
    async with served(options) as ports, cancelled_at_end(collect_hourly()):
        collect_rarely()
        systemd.tell("READY=1")
        log.info("services on %s:%d", options.services[0], ports.services)
        log.info("REST on %s", ports.site)
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
        await in_thread(partial(upgrade, database))
        listener = stack.enter_context(listening(*options.rest))
        site = site_of(listener, options.tls)
        if options.tls is None and not ip_address(listener.getsockname()[0]).is_loopback:
            log.warning("REST is in the clear on %s: passwords can be read on the way, give --tls-cert", site)
        replica = ThisReplica(database, tally, options.pace)
        services = await stack.enter_async_context(
            services_served(database, tally, replica, options.services, tls=options.tls, pace=options.pace)
        )
        await stack.enter_async_context(_living(replica, site, services.roll))
        conversions = Conversions(database, replica.id, options.converter, services.jobs.wake)
        for _ in range(options.converter.at_once):
            await stack.enter_async_context(cancelled_at_end(conversions.run()))
        parts = Parts(
            database=database,
            tally=tally,
            site=options.site or site,
            passwords=options.passwords,
            changed=services.watch.wake,
            provider=_provider(stack, options),
            schedulers=Schedulers(_scheduler_tls(options.tls), patience_s=options.scheduler_patience_s),
            jobs_changed=services.jobs.wake,
        )
        _, answers = make_app(parts)
        if console := options.console and _has_console():
            answers = await stack.enter_async_context(_with_console(answers, tally, parts.site))
        await stack.enter_async_context(http_served(answers, listener, options.tls, websockets=console))
        await in_thread(partial(_invite, parts, options))
        if options.metrics is not None:

            async def render() -> bytes:
                return tally.render(replica.alive, services.roll.connected, services.relays.hosts)

            place = await stack.enter_async_context(metrics_served(*options.metrics, render))
            log.info("metrics on port %d", place)
        yield Ports(services.port, listener.getsockname()[1], site)


def _provider(stack: AsyncExitStack, options: Options) -> ProviderClient | None:
    """Not asked yet: it may be away while we start."""
    if options.provider is None:
        return None
    client = ProviderClient(options.provider)
    stack.callback(client.close)
    return client


def _scheduler_tls(tls: Tls | None) -> LinkTls | None:
    """Whoever holds services to certificates shows them its own."""
    return LinkTls(tls.certificate, tls.key, tls.authority) if tls and tls.authority else None


def _has_console() -> bool:
    if importlib.util.find_spec("nicegui") is not None:
        return True
    log.info("no console: its library is not here (pip install 'cafs[console]')")
    return False


@asynccontextmanager
async def _with_console(rest: ASGIApp, tally: Tally, site: str) -> AsyncIterator[ASGIApp]:
    # In a thread: it takes a while, and only who has a console pays for it.
    serving = await in_thread(partial(importlib.import_module, "cafs.manager.console.serving"))
    async with serving.console_served(rest, tally, site) as answers:
        log.info("console on %s%s/", site, CONSOLE)
        yield answers


def _invite(parts: Parts, options: Options) -> None:
    """Nobody can sign in yet, or one more administrator is wanted: say how."""
    with parts.database.writing() as session:
        if not options.new_admin and not is_new(session):
            return
        secret = add_link(session, None)
    link = link_to(parts.site, secret)
    options.say(f"within a day, choose name and password of an administrator at {link}")


@asynccontextmanager
async def _living(replica: ThisReplica, address: str, roll: Roll) -> AsyncIterator[None]:
    await in_thread(partial(replica.join, address))
    async with cancelled_at_end(replica.live(roll.say_all_again)):
        yield
    with suppress(CafsError):
        await in_thread(replica.leave)
