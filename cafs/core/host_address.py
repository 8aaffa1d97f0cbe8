"""The address at which a host says that others reach it. Pure."""

from __future__ import annotations

import ipaddress
import re

from cafs.errors import ProtocolError

_PORT = re.compile(r"[0-9]{1,5}")


def parse_address(address: str) -> str:
    """An ip address and a port, as others are to reach them.

    Raises:
        ProtocolError: it is none, or nobody else could reach it.
    """
    host, _, port = address.rpartition(":")
    try:
        ip = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ProtocolError("address: expected ip:port") from None
    if "%" in host:  # a zone is a name on the host that says it, and may be any text
        raise ProtocolError("address: a zone means nothing to others")
    bracketed = host.startswith("[") == (ip.version == 6)
    if not (bracketed and _PORT.fullmatch(port) and 0 < int(port) < 1 << 16):
        raise ProtocolError("address: bad port")
    meant = getattr(ip, "ipv4_mapped", None) or ip
    if meant.is_unspecified or meant.is_multicast or meant.is_link_local:
        raise ProtocolError("address: nobody can reach it")
    return f"[{ip}]:{int(port)}" if ip.version == 6 else f"{ip}:{int(port)}"
