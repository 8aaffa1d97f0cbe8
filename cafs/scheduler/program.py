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
from pathlib import Path

import grpc

from cafs.core.scheduling.limits import Limits
from cafs.daemon.metrics_server import metrics_served
from cafs.daemon.service_manager import ServiceManager
from cafs.errors import StateError, UsageError
from cafs.scheduler.collector import collect_rarely
from cafs.scheduler.health import HealthService
from cafs.scheduler.service import SchedulerService
from cafs.scheduler.streams import Hub
from cafs.scheduler.tally import Tally

log = logging.getLogger(__name__)

_GRACE_S = 3.0
_MESSAGE_BYTES = 64 << 20
"""A hello of 4,096 tasks with all digests would be larger: such a host tells of fewer digests."""
_KEEPALIVE_MS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of this server; with ``authority`` clients need a certificate that it signed."""

    certificate: Path
    key: Path
    authority: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says."""

    host: str
    port: int
    limits: Limits
    tls: Tls | None = None
    metrics: tuple[str, int] | None = None
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
    async with served(options) as port:
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
    health = HealthService()
    mutual = options.tls is not None and options.tls.authority is not None
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 4),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )
    service = SchedulerService(hub, mutual_tls=mutual)
    server.add_generic_rpc_handlers((service.handlers(), health.handlers()))
    port = _listen(server, options)
    await server.start()
    ticks = asyncio.create_task(hub.run_ticks())
    try:
        async with AsyncExitStack() as stack:
            if options.metrics is not None:

                async def render() -> bytes:
                    return hub.tally.render(hub.core.state, hub.connected)

                place = await stack.enter_async_context(metrics_served(*options.metrics, render))
                log.info("metrics on port %d", place)
            yield port
    finally:
        health.end()
        ticks.cancel()
        hub.end_all(grpc.StatusCode.UNAVAILABLE, "this scheduler ends: take the next one")
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await service.drained()
        await server.stop(_GRACE_S)


def _listen(server: grpc.aio.Server, options: Options) -> int:
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.port}"
    try:
        if options.tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(options.tls))
    except RuntimeError as e:
        raise StateError(f"cannot serve on {address}: {e}") from e


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    try:
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        authority = tls.authority.read_bytes() if tls.authority is not None else None
    except OSError as e:
        raise UsageError(f"cannot read {e.filename}: {e.strerror}") from e
    return grpc.ssl_server_credentials(
        [pair], root_certificates=authority, require_client_auth=authority is not None
    )
