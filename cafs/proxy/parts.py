"""What the modules of the proxy hand one another."""

from __future__ import annotations

from dataclasses import dataclass

from cafs.core.proxying.head import RequestHead
from cafs.core.proxying.routing import Plan
from cafs.p2p.content import Distributor
from cafs.proxy.admission import Admission
from cafs.proxy.client import Client
from cafs.proxy.config import ProxyConfig
from cafs.proxy.figures import Figures
from cafs.proxy.live_rules import LiveRules
from cafs.proxy.mirrored import MirroredSite
from cafs.proxy.origin import Origins


@dataclass(frozen=True, slots=True)
class Parts:
    """What all conversations of a proxy share."""

    config: ProxyConfig
    origins: Origins
    distributor: Distributor
    admission: Admission | None
    figures: Figures
    our_name: str
    rules: LiveRules


@dataclass(frozen=True, slots=True)
class Turn:
    """One request that is to be answered."""

    client: Client
    head: RequestHead
    plan: Plan
    site: MirroredSite | None
    """Where it came below a mirror's path."""
