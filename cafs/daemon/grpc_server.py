"""A gRPC server on a TCP port, with or without TLS: what scheduler and manager share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from cafs.errors import StateError, UsageError

_KEEPALIVE_MS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of this server; with ``authority`` clients need a certificate that it signed."""

    certificate: Path
    key: Path
    authority: Path | None = None

    @property
    def mutual(self) -> bool:
        """Clients show a certificate too."""
        return self.authority is not None


def _says_more(record: logging.LogRecord) -> bool:
    """Not that somebody left at the moment his call ended: grpc tells that as an error, with a traceback."""
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != "ExecuteBatchError"


def new_server(message_bytes: int) -> grpc.aio.Server:
    """A server that takes messages of at most so many bytes, and finds out about hosts that are gone."""
    logging.getLogger("grpc._cython.cygrpc").addFilter(_says_more)  # one function is added once only
    return grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", message_bytes),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _KEEPALIVE_MS // 4),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )


def listen(server: grpc.aio.Server, host: str, port: int, tls: Tls | None) -> int:
    """Serve there from ``server.start()`` on; returns the port.

    Raises:
        StateError: the address cannot be had.
        UsageError: a file of TLS cannot be read.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, _credentials(tls))
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
