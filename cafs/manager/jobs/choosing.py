"""Which hosts of a cluster do a job. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3


@dataclass(frozen=True, slots=True)
class Choice:
    """A host that may be chosen."""

    id: str
    hostname: str
    active: bool


def choose(hosts: Iterable[Choice], scope: Mapping[str, Any], content: str) -> list[Choice]:
    """Those that a scope means, as hosts are now.

    Args:
        hosts: Of the cluster.
        scope: ``{"hosts": "all"}``, ``"one"``, ``"percent"`` with ``percent``, ``"named"`` with ``names``:
            hosts' names or ids.
        content: What the job is about. The one host differs between contents, and is the same for one.

    Returns:
        Active ones; of those that are named also such as are not here now. A larger share of the same hosts
        has all of a smaller one, so that half a fleet can be followed by the rest of it.
    """
    if scope["hosts"] == "named":
        names = frozenset(scope["names"])
        return [host for host in hosts if host.hostname in names or host.id in names]
    active = [host for host in hosts if host.active]
    match scope["hosts"]:
        case "one":
            return sorted(active, key=lambda host: _rank(content, host))[:1]
        case "percent":
            count = math.ceil(len(active) * scope["percent"] / 100)
            return sorted(active, key=lambda host: _rank("", host))[:count]
    return active


def _rank(content: str, host: Choice) -> bytes:
    return blake3(f"{host.id}|{content}".encode()).digest()
