"""The address at which a host says that others reach it. Pure."""

from __future__ import annotations

import ipaddress

from cafs.errors import ProtocolError


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
    bracketed = host.startswith("[") == (ip.version == 6)
    if not (bracketed and port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ProtocolError("address: bad port")
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        raise ProtocolError("address: nobody can reach it")
    return f"[{ip}]:{int(port)}" if ip.version == 6 else f"{ip}:{int(port)}"
