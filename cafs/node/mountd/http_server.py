"""The mount server's side of ``cafs.http11``: small whole answers, with the reasons of its own protocol."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

from cafs.control_socket.protocol import MAX_REQUEST_BYTES, STATUS_OF, Reason, encode_failure
from cafs.http11.messages import Answer, Reply, Request, ServerLimits
from cafs.http11.server import serve_http as serve

CLIENT_PATIENCE_S = 30.0
"""For a request to arrive, whole, and for an answer to be taken."""
LIMITS = ServerLimits(
    body_bytes=MAX_REQUEST_BYTES,
    request_s=CLIENT_PATIENCE_S,
    idle_s=CLIENT_PATIENCE_S,
    send_s=CLIENT_PATIENCE_S,
)

Handler = Callable[[Request], Awaitable[Answer]]

__all__ = ["Answer", "Handler", "Request", "refuse", "serve_http"]


def refuse(reason: Reason, message: str, status: int | None = None) -> Answer:
    """An answer that is no success."""
    return Answer(status or STATUS_OF[reason], encode_failure(reason, message))


async def serve_http(listener: socket.socket, handler: Handler) -> None:
    """Answer until cancelled; whatever ``handler`` raises is answered with 500."""

    async def answer(request: Request, reply: Reply) -> None:
        await reply.send(await handler(request))

    await serve(listener, answer, LIMITS)
