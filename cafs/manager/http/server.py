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
async def http_served(app: ASGIApp, host: str, port: int, tls: Tls | None) -> AsyncIterator[int]:
    """Serve while the context lasts; yields the port. Requests under way are answered at its end.

    Raises:
        StateError: the address cannot be had.
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
        ws="none",
        http="h11",
        h11_max_incomplete_event_size=_HEAD_BYTES,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    with _listening(host, port) as listener:
        try:
            config.load()
        except OSError as e:
            raise StorageError(f"the certificate of REST cannot be loaded: {e}") from e
        server = _Server(config)
        serving = asyncio.create_task(server.serve([listener]))
        ready = asyncio.create_task(server.ready.wait())
        try:
            await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
            yield listener.getsockname()[1]
        finally:
            ready.cancel()
            server.should_exit = True
            await serving


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as e:
        raise StateError(f"cannot serve REST on {host}:{port}: {e.strerror or e}") from e
    with listener:
        yield listener


def site_of(host: str, port: int, tls: Tls | None) -> str:
    """Its address, for people."""
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"
