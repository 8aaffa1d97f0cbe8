"""Who is refused in TLS between hosts, and why: for one clear line on either side.

Servers hold a client's certificate to the address that the client comes from, as clients do with a server's:
a certificate that was copied to another host is of no use there.
"""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Mapping
from typing import Any

AGAIN_S = 60.0
"""The same is not complained of sooner."""
_MOST = 1024


class Complaints:
    """Whether to say once more what is wrong with somebody: others must not be able to fill the log."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def is_due(self, what: str, now: float) -> bool:
        """It was not said lately; from now on it was."""
        if self._said.get(what, -AGAIN_S) + AGAIN_S > now:
            return False
        if len(self._said) >= _MOST:
            self._said = {known: at for known, at in self._said.items() if at + AGAIN_S > now}
        if len(self._said) >= _MOST:
            return False
        self._said[what] = now
        return True


def tls_failure(error: BaseException) -> str:
    """What TLS says was wrong, in its words; empty: it was something else, such as an early end."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError | ssl.CertificateError):
        cause = cause.__cause__
    if cause is None or isinstance(cause, ssl.SSLEOFError):
        return ""
    said = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or str(cause)
    text = str(said).replace("_", " ").strip().rstrip(".")
    return text.lower() if text.isupper() else text


def why_not_good_for(certificate: Mapping[str, Any], address: str) -> str:
    """What is wrong with a verified certificate of somebody at this address; empty: nothing."""
    here = ipaddress.ip_address(address.partition("%")[0])
    here = getattr(here, "ipv4_mapped", None) or here
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind == "IP Address"]
    if any(_is_address(name, here) for name in names):
        return ""
    return f"the certificate is not good for {here}"


def _is_address(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return ipaddress.ip_address(name.strip()) == address
    except ValueError:
        return False
