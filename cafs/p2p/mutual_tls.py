"""TLS between hosts: both show a certificate of the cluster's authority, servers one for their address."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from cafs.core.settings import Settings
from cafs.errors import StorageError, UsageError


@dataclass(frozen=True, slots=True)
class HostTls:
    """For the upload server, and for asking those of others."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def load_host_tls(settings: Settings) -> HostTls | None:
    """As configured; None: hosts speak plain HTTP.

    Raises:
        UsageError: only some of the three files are given.
        StorageError: they cannot be read, or hold something else.
    """
    given = settings.peer_certificate, settings.peer_key, settings.peer_ca
    if not any(given):
        return None
    if not all(given):
        raise UsageError("mutual TLS needs all of peer_certificate, peer_key and peer_ca")
    for name, path in zip(("peer_certificate", "peer_key", "peer_ca"), given, strict=True):
        _check_readable(name, Path(path))
    try:
        server = _context(ssl.PROTOCOL_TLS_SERVER, *map(Path, given))
        client = _context(ssl.PROTOCOL_TLS_CLIENT, *map(Path, given))
    except (OSError, ssl.SSLError) as e:
        why = "the key is another certificate's" if "KEY_VALUES_MISMATCH" in str(e) else str(e)
        raise StorageError(f"peer_certificate, peer_key and peer_ca cannot be used: {why}") from e
    return HostTls(server, client)


def _check_readable(name: str, path: Path) -> None:
    """OpenSSL's own errors name no file."""
    try:
        path.read_bytes()
    except OSError as e:
        raise StorageError(f"{name}: {path} cannot be read: {e.strerror}") from e


def _context(protocol: int, certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key, password="")  # of an encrypted key nobody is asked for one
    context.load_verify_locations(authority)
    return context
