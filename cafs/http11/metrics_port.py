"""``GET /metrics`` on a TCP port of its own, in trio: a program's figures, and nothing else of it.

Used by peer, seed and proxy, whose other sockets are not for whoever may read figures. Few connections at a
time, each of them bounded like all of ours.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import trio

from cafs.core.exposition import CONTENT_TYPE
from cafs.errors import StateError
from cafs.http11.messages import Answer, Reply, Request, ServerLimits, refusal
from cafs.http11.server import serve_http

log = logging.getLogger(__name__)

_LIMITS = ServerLimits(connections=16, client_connections=8, body_bytes=0, request_s=10, idle_s=75, send_s=10)


@asynccontextmanager
async def metrics_served(place: tuple[str, int] | None, render: Callable[[], bytes]) -> AsyncIterator[None]:
    """Serve what ``render`` gives at each request while the context lasts; None: nowhere.

    Raises:
        StateError: the address cannot be had.
    """
    if place is None:
        yield
        return

    async def handle(request: Request, reply: Reply) -> None:
        await reply.send(_answer(request, render))

    with _listening(*place) as listener:
        log.info("metrics on port %d", listener.getsockname()[1])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_http, listener, handle, _LIMITS)
            yield
            nursery.cancel_scope.cancel()


def _answer(request: Request, render: Callable[[], bytes]) -> Answer:
    if request.path != "/metrics":
        return refusal(HTTPStatus.NOT_FOUND, "the figures are at /metrics", "unknown")
    if request.method not in {"GET", "HEAD"}:
        return refusal(HTTPStatus.METHOD_NOT_ALLOWED, "only GET", "bad_request")
    return Answer(HTTPStatus.OK, render(), CONTENT_TYPE)


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as e:
        raise StateError(f"cannot serve metrics on {host}:{port}: {e.strerror or e}") from e
