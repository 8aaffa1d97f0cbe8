"""A channel to a gRPC service of ours, with or without mutual TLS: for links to schedulers and managers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from cafs.errors import StorageError

_MESSAGE_BYTES = 64 << 20
_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 20_000, 10_000


@dataclass(frozen=True, slots=True)
class LinkTls:
    """Files, as in ``Settings``."""

    certificate: Path
    key: Path
    authority: Path

    def credentials(self) -> grpc.ChannelCredentials:
        """Read them.

        Raises:
            StorageError: they cannot be read.
        """
        try:
            return grpc.ssl_channel_credentials(
                self.authority.read_bytes(), self.key.read_bytes(), self.certificate.read_bytes()
            )
        except OSError as e:
            raise StorageError(f"cannot read {e.filename}: {e.strerror}") from e


_OPTIONS = [
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


def open_channel(address: str, tls: LinkTls | None) -> grpc.Channel:
    """To HOST:PORT; connects when it is first used.

    Raises:
        StorageError: a file of ``tls`` cannot be read.
    """
    if tls is None:
        return grpc.insecure_channel(address, _OPTIONS)
    return grpc.secure_channel(address, tls.credentials(), _OPTIONS)


def open_loop_channel(address: str, tls: LinkTls | grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """The same for an asyncio loop; with credentials, what was read of ``tls`` before.

    Raises:
        StorageError: a file of ``tls`` cannot be read.
    """
    credentials = tls.credentials() if isinstance(tls, LinkTls) else tls
    if credentials is None:
        return grpc.aio.insecure_channel(address, _OPTIONS)
    return grpc.aio.secure_channel(address, credentials, _OPTIONS)
