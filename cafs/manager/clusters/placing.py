"""Which cluster a host belongs to: a score of how well a cluster's scopes fit it. Pure; docs/manager.md.

| part | weight | is |
|---|---|---|
| cidr | 0.32 | 1/2 + 1/2 x prefix length / bits of the longest network that holds the host's address |
| hostname | 0.30 | 1 when a pattern fits |
| idc | 0.22 | 1 when it is one of the cluster's |
| location | 0.15 | share of a location's parts, from the widest on, that are the host's; the best of them |
| default | 0.01 | 1 for the default cluster |

The parts' weighted sum decides; of equal ones the cluster that was made first. A cluster whose sum is 0 takes
no host. So the default takes those that nobody else wants, and what a cluster does not speak of says nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Parts(NamedTuple):
    """Of a score, each 0 to 1."""

    cidr: float
    hostname: float
    idc: float
    location: float
    default: float


WEIGHTS = Parts(cidr=0.32, hostname=0.30, idc=0.22, location=0.15, default=0.01)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a host is, by its own words."""

    address: Address
    hostname: str
    idc: str = ""
    location: tuple[str, ...] = ()
    """Widest first."""


@dataclass(frozen=True, slots=True)
class Scopes:
    """Whom a cluster wants."""

    cidrs: tuple[Network, ...] = ()
    hostnames: tuple[str, ...] = ()
    """Patterns of the shell: * ? [abc]. Case does not matter."""
    idcs: frozenset[str] = field(default_factory=frozenset)
    locations: tuple[tuple[str, ...], ...] = ()
    default: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cluster, as far as it matters here."""

    id: int
    name: str
    scopes: Scopes


def parts_of(scopes: Scopes, place: Place) -> Parts:
    """How well a cluster fits."""
    name = place.hostname.lower()
    return Parts(
        cidr=max((_nearness(network, place.address) for network in scopes.cidrs), default=0.0),
        hostname=float(any(fnmatchcase(name, pattern.lower()) for pattern in scopes.hostnames)),
        idc=float(bool(place.idc) and place.idc in scopes.idcs),
        location=max((_agreement(wanted, place.location) for wanted in scopes.locations), default=0.0),
        default=float(scopes.default),
    )


def score_of(parts: Parts) -> float:
    """Their weighted sum, 0 to 1."""
    return sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))


def find_cluster(candidates: Iterable[Candidate], place: Place) -> Candidate | None:
    """The one it belongs to; None: nobody wants it."""
    scored = [(score_of(parts_of(found.scopes, place)), -found.id, found) for found in candidates]
    best = max(scored, key=lambda found: found[:2], default=None)
    return best[2] if best is not None and best[0] > 0 else None


def _nearness(network: Network, address: Address) -> float:
    if network.version != address.version or address not in network:
        return 0.0
    return 0.5 + 0.5 * network.prefixlen / network.max_prefixlen


def _agreement(wanted: tuple[str, ...], location: tuple[str, ...]) -> float:
    agreed = 0
    for one, other in zip(wanted, location, strict=False):
        if one != other:
            break
        agreed += 1
    return agreed / len(wanted) if wanted else 0.0
