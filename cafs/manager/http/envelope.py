"""What holds for every request, whatever it asks: a bound on its body, headers of safety, a tally.

Plain ASGI. The body is read whole before anybody looks at it: 1 MiB at most, and within half a minute.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cafs.manager.http.problems import INTERNAL, refuse
from cafs.manager.refusals import Problem
from cafs.manager.tally import Tally

log = logging.getLogger(__name__)

BODY_BYTES = 1 << 20
_BODY_S = 30.0
_SAFETY = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy",
     b"default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"),
)  # fmt: skip


class _GoneError(Exception):
    """The client has left before all of its request was here."""


class Envelope:
    """Around an application; ``safety``: headers of each of its answers."""

    def __init__(self, app: ASGIApp, tally: Tally, safety: Iterable[tuple[bytes, bytes]] = _SAFETY) -> None:
        self._app = app
        self._tally = tally
        self._safety = tuple(safety)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it is accepted: 403
        if scope["type"] != "http":
            return
        began, told, whole = time.perf_counter(), 0, False

        async def send_safely(message: Message) -> None:
            nonlocal told, whole
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                told = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *self._safety]}
            await send(message)

        try:
            await self._answer(scope, receive, send_safely)
        except _GoneError:
            return
        except Exception:
            log.exception("a mistake at %s %s", scope["method"], scope["path"])
            if told and not whole:
                raise
            if not told:
                await refuse(INTERNAL)(scope, receive, send_safely)
        route = getattr(scope.get("route"), "path", "none")
        self._tally.note_request(scope["method"], route, told, time.perf_counter() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(_BODY_S):
                body = await _read(scope, receive)
        except TimeoutError:
            problem = Problem(HTTPStatus.REQUEST_TIMEOUT, "slow", "the request did not come within 30 s")
            await refuse(problem)(scope, receive, send)
            return
        if body is None:
            problem = Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", f"a body has {BODY_BYTES} bytes at most"
            )
            await refuse(problem)(scope, receive, send)
            return
        given = False

        async def receive_again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_again, send)


async def _read(scope: Scope, receive: Receive) -> bytes | None:
    """None: it is too large."""
    length = dict(scope["headers"]).get(b"content-length", b"0")
    if not length.isdigit() or int(length) > BODY_BYTES:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        body += message.get("body", b"")
        if len(body) > BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return bytes(body)
