"""Puts the console beside REST: pages are in NiceGUI's application, that in a shell of ours, behind the gate.

NiceGUI's application is one per process, and can be set up once; who is served at a time is in its state.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

from fastapi import FastAPI
from nicegui import app as library
from nicegui import ui
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp

from cafs.manager.console import (
    account,
    audit,
    cluster,
    clusters,
    configuration,
    entrance,
    hosts,
    images,
    jobs,
    members,
    overview,
    statistics,
    swarm,
    tasks,
    users,
    versions,
)
from cafs.manager.console.frame import register
from cafs.manager.console.gate import Gate, Guard
from cafs.manager.console.session import add_routes
from cafs.manager.http.envelope import Envelope
from cafs.manager.http.paths import CONSOLE
from cafs.manager.tally import Tally

_PAGES = (
    *overview.PAGES,
    *statistics.PAGES,
    *clusters.PAGES,
    *cluster.PAGES,
    *configuration.PAGES,
    *versions.PAGES,
    *tasks.PAGES,
    *swarm.PAGES,
    *members.PAGES,
    *hosts.PAGES,
    *images.PAGES,
    *jobs.PAGES,
    *users.PAGES,
    *account.PAGES,
    *audit.PAGES,
)
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#1565c0" '
    'stroke-width="2">'
    '<circle cx="12" cy="5" r="3"/><circle cx="5" cy="18" r="3"/><circle cx="19" cy="18" r="3"/>'
    '<path d="M10.5 7.6 6.5 15.4M13.5 7.6l4 7.8M8 18h8"/></svg>'
)
_COMPRESSION, _LEAST_BYTES = 5, 1000


@asynccontextmanager
async def console_served(rest: ASGIApp, tally: Tally, site: str) -> AsyncIterator[ASGIApp]:
    """What is to be served while the context lasts: ``rest``, and the console beside it.

    Args:
        rest: The application that pages ask.
        tally: Counts requests.
        site: Where people reach it: with https, cookies are for that alone.
    """
    shell = _shell()
    for state in (shell.state, library.state):
        state.rest = rest
        state.secure = site.startswith("https:")
    guarded = Guard(Envelope(shell, tally, safety=()), shell)
    async with shell.router.lifespan_context(shell):
        yield Gate(rest, GZipMiddleware(guarded, _LEAST_BYTES, _COMPRESSION))


@cache
def _shell() -> FastAPI:
    shell = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    add_routes(shell)
    entrance.register()
    for page in _PAGES:
        register(page)
    ui.run_with(
        shell,
        mount_path=CONSOLE,
        title="CAFS",
        favicon=_ICON,
        dark=None,
        language="en-US",
        tailwind=False,
        gzip_middleware_factory=None,
        show_welcome_message=False,
        reconnect_timeout=30.0,  # also how long a busy browser may be silent: two fifths of it
        binding_refresh_interval=None,
    )
    return shell
