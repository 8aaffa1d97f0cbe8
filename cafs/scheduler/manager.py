"""The scheduler's link to the manager, and what it has the scheduler obey."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from cafs import __version__
from cafs.core.host_address import parse_address
from cafs.core.live.document import LiveConfig
from cafs.core.statistics.ledger import Ledger
from cafs.daemon.grpc_client import LinkTls
from cafs.daemon.grpc_server import Tls
from cafs.daemon.live_configuration import LiveConfiguration
from cafs.daemon.manager_link import ManagerLink, ServiceFacts
from cafs.daemon.reporting import Reporting
from cafs.errors import ProtocolError, UsageError
from cafs.proto import manager_pb2
from cafs.scheduler.relay import Way
from cafs.scheduler.streams import Hub

_LONGEST_PAUSE_S = 5.0
"""Schedulers are few, and hosts wait for them to reach the manager."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Managers:
    """Where the manager is, and what it is told of this scheduler."""

    addresses: Sequence[str]
    kept_in: Path
    """The folder in which the last configuration is kept."""
    reached_at: str
    """HOST:PORT; empty: where it listens."""
    idc: str
    location: str


@contextmanager
def manager_attached(
    managers: Managers,
    hub: Hub,
    listens: tuple[str, int],
    tls: Tls | None,
    on_welcome: Callable[[], None],
) -> Iterator[Way]:
    """The manager knows of this scheduler, and it obeys, while the context lasts. In the event loop.

    Args:
        managers: Where it is.
        hub: Obeys.
        listens: Where this scheduler does.
        tls: Its certificate.
        on_welcome: Called whenever the manager has taken this scheduler in.

    Raises:
        UsageError: others cannot reach the scheduler where it says.
    """
    hostname, (host, port) = socket.gethostname()[:255], listens
    address = managers.reached_at or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    try:
        parse_address(address)
    except ProtocolError as e:
        raise UsageError(
            f"{address}: others cannot reach this scheduler there: scheduler_address ({e})"
        ) from e
    facts = ServiceFacts(
        # No random one, that had to be kept: another one there would be the same to hosts.
        host_id=blake3(f"scheduler|{hostname}|{address}".encode()).hexdigest(length=16),
        kind=manager_pb2.SCHEDULER,
        hostname=hostname,
        address=address,
        idc=managers.idc,
        location=managers.location,
        version=__version__,
    )
    own = hub.limits

    def obey(live: LiveConfig) -> None:
        hub.change(live.scheduler_limits(own), live.wishes)

    configuration = LiveConfiguration(managers.kept_in / f"{facts.host_id}.json", "scheduler", obey)
    configuration.recall()
    ours = LinkTls(tls.certificate, tls.key, tls.authority) if tls and tls.authority else None
    hand_over = asyncio.get_running_loop().call_soon_threadsafe
    ledger = Ledger(secrets.token_hex(16), hub.tally.amounts)
    reporting = Reporting(ledger, managers.kept_in / f"{facts.host_id}.figures.json")
    with ManagerLink(
        managers.addresses,
        facts,
        ours,
        configuration,
        hand_over,
        hear={"welcome": lambda _: on_welcome()},
        reporting=reporting,
        longest_pause_s=_LONGEST_PAUSE_S,
    ):
        yield Way(managers.addresses, facts.host_id, address, ours)
