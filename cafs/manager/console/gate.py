"""What holds for every request of the console, before any page sees it. Plain ASGI.

REST stays what it is: it knows no cookie, so nothing that another site has a browser send can change
anything there. What does look at the cookie is let in from the console's own pages only.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cafs.manager.http.paths import CONSOLE
from cafs.manager.oidc.provider import CALLBACK

_ASSETS = f"{CONSOLE}/_nicegui/"
"""Of the library; their paths have its version, so they may be kept."""
_SOCKETS = f"{CONSOLE}/_nicegui_ws/"
"""Also where they are spoken in requests, one after the other."""
_KEPT = "public, max-age=31536000, immutable"
# Vue compiles the library's templates in the browser: unsafe-eval. Nothing is loaded from, or sent to,
# anywhere else.
_POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
_ASKING = ("GET", "HEAD")


class Gate:
    """Before REST and the console: sends each request to whom it is for."""

    def __init__(self, rest: ASGIApp, console: ASGIApp) -> None:
        self._rest = rest
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path in {"/", CONSOLE} and scope["type"] == "http":
            await RedirectResponse(f"{CONSOLE}/", 303)(scope, receive, send)
        elif path == "/setup" and scope["type"] == "http" and scope["method"] == "GET":
            query = scope["query_string"].decode("latin-1")
            await RedirectResponse(f"{CONSOLE}/setup?{query}", 303)(scope, receive, send)
        elif path.startswith(f"{CONSOLE}/") or path == CALLBACK:
            await self._console(scope, receive, send)
        else:
            await self._rest(scope, receive, send)


class Guard:
    """Around the console: refuses what other sites' pages send, and tells browsers what pages may do."""

    def __init__(self, pages: ASGIApp, sockets: ASGIApp) -> None:
        self._pages = pages
        self._sockets = sockets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(scope=scope)
        del headers["x-forwarded-prefix"]  # whoever asks does not say where scripts are loaded from
        speaks = scope["path"].startswith(_SOCKETS)
        changes = scope["type"] == "websocket" or scope["method"] not in _ASKING or speaks
        if changes and not is_own(headers, scope["scheme"]):
            await _refuse(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await self._sockets(scope, receive, send)
        else:
            await self._pages(scope, receive, _Dressing(send, scope["path"]))


def is_own(headers: Headers, scheme: str) -> bool:
    """Whether a browser sent this from a page of ours.

    ``Origin`` comes with all that may change something; where it is absent, no page of another site sent it.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "same-origin") in {"same-origin", "none"}
    said = urlsplit(origin)
    secure = scheme in {"https", "wss"}
    return said.netloc == headers.get("host") and (said.scheme == "https" or not secure)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
    else:
        await PlainTextResponse("this came from another site\n", 403)(scope, receive, send)


class _Dressing:
    """Of one answer: its headers, and a nonce in each script that a page of the library has."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._kept = path.startswith(_ASSETS)
        self._nonce = secrets.token_urlsafe(16)
        self._start: Message = {}
        self._body = bytearray()
        self._is_page = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=[*message.get("headers", ())])
            headers["content-security-policy"] = _POLICY.format(nonce=self._nonce)
            headers["x-content-type-options"] = "nosniff"
            headers["referrer-policy"] = (
                "same-origin"  # no-referrer would have forms say nothing of their origin
            )
            headers["cache-control"] = _KEPT if self._kept and message["status"] == 200 else "no-store"
            self._is_page = headers.get("content-type", "").startswith("text/html")
            if self._is_page:
                del headers["content-length"]
            self._start = {**message, "headers": headers.raw}
            if not self._is_page:
                await self._send(self._start)
        elif not self._is_page:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_page()

    async def _send_page(self) -> None:
        # What the library writes into a page as data has no "<".
        body = bytes(self._body).replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        length = (b"content-length", str(len(body)).encode())
        await self._send({**self._start, "headers": [*self._start["headers"], length]})
        await self._send({"type": "http.response.body", "body": body})
