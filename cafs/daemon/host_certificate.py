"""Whether a host is who its certificate says. Pure.

With mutual TLS the certificate must be good for the address that the host wants others to send their
requests to (an IP address among its alternative names). A common name that is a host id must be this
host's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping

_HOST_ID = re.compile(r"[0-9a-f]{32}")


def mismatch(host_id: str, address: str, auth: Mapping[str, Iterable[bytes]]) -> str:
    """What is wrong; empty: nothing.

    Args:
        host_id: What the host calls itself.
        address: IP:PORT at which it says that others reach it.
        auth: gRPC's authentication context of a connection with a verified client certificate.
    """
    for name in _texts(auth, "x509_common_name"):
        if _HOST_ID.fullmatch(name) and name != host_id:
            return "the certificate is another host's"
    host = address.rpartition(":")[0].strip("[]")
    reached = ipaddress.ip_address(host)
    if any(_is_address(name, reached) for name in _texts(auth, "x509_subject_alternative_name")):
        return ""
    return f"the certificate is not good for {host}"


def _texts(auth: Mapping[str, Iterable[bytes]], key: str) -> list[str]:
    return [value.decode(errors="replace") for value in auth.get(key, ())]


def _is_address(name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return ipaddress.ip_address(name) == address
    except ValueError:
        return False
