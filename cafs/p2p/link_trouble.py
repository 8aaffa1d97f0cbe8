"""Why a scheduler cannot be reached, as gRPC does not say: asked once more, step by step, in a thread."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from cafs.http11.certificates import tls_failure

_STEP_S = 2.0
_DOES_NOT_TAKE_US = "it does not take this host's certificate"


def why_unreachable(address: str, files: tuple[Path, Path, Path] | None) -> str:
    """In a few words; empty: no idea.

    Args:
        address: HOST:PORT.
        files: Certificate, key and authority, where hosts speak mTLS.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _STEP_S) as plain:
            return _try_without(plain) if files is None else _try_with(plain, host.strip("[]"), files)
    except (OSError, ValueError) as e:
        return getattr(e, "strerror", None) or str(e)


def _try_without(plain: socket.socket) -> str:
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    try:
        anybody.wrap_socket(plain).close()
    except OSError:
        return ""
    return "it speaks TLS, and this peer has no peer_certificate"


def _try_with(plain: socket.socket, host: str, files: tuple[Path, Path, Path]) -> str:
    certificate, key, authority = files
    ours = ssl.create_default_context(cafile=authority)
    ours.load_cert_chain(certificate, key)
    ours.set_alpn_protocols(["h2"])
    try:
        stream = ours.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as e:
        return f"its certificate cannot be believed: {tls_failure(e)}"
    except ssl.SSLError as e:
        return f"TLS with it fails: {tls_failure(e) or 'it breaks off'}"
    with stream:  # in TLS 1.3 a server says only now what it thinks of us; else it speaks first
        try:
            return "" if stream.recv(1) else _DOES_NOT_TAKE_US
        except ssl.SSLError as e:
            return f"{_DOES_NOT_TAKE_US}: {tls_failure(e)}".removesuffix(": ")
