"""Which network addresses the proxy may be sent to. Pure.

Whoever may use the proxy must not reach through it what only this host reaches: itself, its link, and the
metadata services of clouds, which hand out credentials. What is checked is the address that is about to be
connected to, not a name: a name can resolve to anything, and to something else the next time.

Sources: RFC 6890 (special addresses), RFC 6052 and 3056 (IPv4 inside IPv6), the clouds' documentation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cafs.core.proxying.address import Authority, parse_authority
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.errors import UsageError

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "100.100.100.200",  # Alibaba Cloud
            "168.63.129.16",  # Azure
            "192.0.0.192",  # Oracle Cloud
            "fd00:ec2::254",  # AWS
            "fd20:ce::254",  # Google Cloud
        ),
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Guard:
    """What is allowed although it is guarded, from the setting ``proxy_allow``."""

    networks: tuple[Network, ...] = ()
    names: frozenset[tuple[str, int | None]] = frozenset()

    def refusal(self, asked: Authority, address: str) -> str | None:
        """Why ``address``, which ``asked`` resolved to, must not be connected to; None: it may."""
        if {(asked.host, asked.port), (asked.host, None)} & self.names:
            return None
        ip = _bare(ipaddress.ip_address(address.partition("%")[0]))
        if any(ip.version == network.version and ip in network for network in self.networks):
            return None
        if {(str(ip), asked.port)} & self.names:
            return None
        kind = _guarded_kind(ip)
        return f"{asked.host} is {kind}: list it in proxy_allow if clients are to reach it" if kind else None


def parse_guard(texts: Sequence[str]) -> Guard:
    """Read the setting ``proxy_allow``: networks (``127.0.0.0/8``), hosts, ``HOST:PORT``.

    Raises:
        UsageError: one of them is neither.
    """
    networks: list[Network] = []
    names: set[tuple[str, int | None]] = set()
    for number, text in enumerate(texts, 1):
        try:
            networks.append(ipaddress.ip_network(text))
        except ValueError:
            names.add(_parse_name(text, number))
    return Guard(tuple(networks), frozenset(names))


def is_own_to_each_host(host: str) -> bool:
    """Whether an address is link-local or a metadata service's; of a name only who connects can tell."""
    try:
        ip = _bare(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return False
    return ip in _METADATA or ip.is_link_local


def _parse_name(text: str, number: int) -> tuple[str, int | None]:
    try:
        authority = parse_authority(text, 65536)
    except RequestRefusedError as e:
        raise UsageError(
            f"number {number}, {text[:80]!r}: expected a network as 10.0.0.0/8, HOST or HOST:PORT"
        ) from e
    return authority.host, None if authority.port == 65536 else authority.port


def _bare(ip: Ip) -> Ip:
    """The IPv4 address that an IPv6 address wraps, where it does."""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        teredo = ip.teredo[1] if ip.teredo else None
        return ip.ipv4_mapped or ip.sixtofour or teredo or _compatible(ip) or ip
    return ip


def _compatible(ip: ipaddress.IPv6Address) -> Ip | None:
    """``::a.b.c.d``, which nobody should use any more; ``::`` and ``::1`` are none."""
    return ipaddress.IPv4Address(int(ip)) if 1 < int(ip) < 1 << 32 else None


def _guarded_kind(ip: Ip) -> str | None:
    if ip in _METADATA:
        return "a metadata service"
    if ip.is_loopback or ip.is_unspecified or (ip.version == 4 and int(ip) >> 24 == 0):
        return "this machine itself"
    if ip.is_link_local:
        return "a link-local address"
    if ip.is_multicast or int(ip) == 0xFFFFFFFF:
        return "no single machine"
    return None
