"""uvicorn in an event loop that somebody else runs: no signal handlers, no logs of its own."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from cafs.daemon.grpc_server import Tls
from cafs.errors import StateError, StorageError

_HEAD_BYTES = 32 << 10
_CONNECTIONS = 2000
_GRACE_S = 3
_MESSAGE_BYTES = 1 << 20


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The program handles signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@asynccontextmanager
async def http_served(
    app: ASGIApp, listener: socket.socket, tls: Tls | None, *, websockets: bool = False
) -> AsyncIterator[None]:
    """Serve while the context lasts. Requests under way are answered at its end.

    Args:
        app: What answers.
        listener: Where.
        tls: Its certificate.
        websockets: Whether it takes such, too.

    Raises:
        StorageError: a file of TLS cannot be used.
    """
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        ws="websockets-sansio" if websockets else "none",
        ws_max_size=_MESSAGE_BYTES,
        http="h11",
        h11_max_incomplete_event_size=_HEAD_BYTES,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    try:
        config.load()
    except OSError as e:
        raise StorageError(f"the certificate of REST cannot be loaded: {e}") from e
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    ready = asyncio.create_task(server.ready.wait())
    try:
        await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        yield
    finally:
        ready.cancel()
        server.should_exit = True
        await serving


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Have an address to serve at.

    Raises:
        StateError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as e:
        raise StateError(f"cannot serve REST on {host}:{port}: {e.strerror or e}") from e
    with listener:
        # Inherited by connections. asyncio sets it only where a socket's protocol number is written out, and
        # without it an answer's body waits for the acknowledgement of its head: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def site_of(listener: socket.socket, tls: Tls | None) -> str:
    """Its address, for people."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"
