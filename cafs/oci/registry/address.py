"""How a registry is reached: its host, and whether in TLS. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cafs.oci.reference import DOCKER_HUB

_HUB_HOST = "registry-1.docker.io"


def address_of(host: str) -> str:
    """The HOST or HOST:PORT that answers for the registry called ``host``."""
    return _HUB_HOST if host == DOCKER_HUB else host


def scheme_for(host: str, insecure: Sequence[str]) -> tuple[str, bool]:
    """``http`` or ``https``, and whether that is only a guess.

    Plain HTTP is spoken to the registries listed as ``insecure``, by HOST or HOST:PORT, and to loopback,
    as docker does; there it is a guess, since a registry on loopback may speak TLS as well.
    """
    if host in insecure or _hostname(host) in insecure:
        return "http", False
    return ("http", True) if is_loopback(host) else ("https", False)


def is_loopback(host: str) -> bool:
    """Whether ``HOST[:PORT]`` is this machine, by its name alone."""
    name = _hostname(host).strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _hostname(host: str) -> str:
    return host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
