"""The link of this node's programs to the manager, and what it has a peer obey. grpc is loaded for it only.

Limits: what the manager says lies on top of what the peer's own configuration says, also after that was
read anew. What ``PATCH /v1/limits`` or a scheduler changed holds until one of the two changes. Belongs to
the trio thread.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cafs import __version__
from cafs.core.live.document import LiveConfig
from cafs.core.settings import Settings
from cafs.core.statistics.ledger import Ledger
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.errors import StateError
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.wish_policy import WishPolicy

if TYPE_CHECKING:
    from cafs.daemon.manager_link import ManagerLink


class Obedience:
    """What the peer's own configuration and the manager's come to."""

    def __init__(
        self,
        own: PeerLimits,
        limits: LiveLimits,
        policy: WishPolicy,
        profiles: ProfileRelay | None = None,
    ) -> None:
        self._own = own
        self._limits = limits
        self._policy = policy
        self._profiles = profiles
        self._live = LiveConfig()

    def obey(self, live: LiveConfig) -> None:
        """The manager says otherwise.

        Raises:
            UsageError: it asks what cannot be; nothing is changed.
        """
        limits = live.peer_limits(self._own)
        self._live = live
        self._policy.rules = live.wishes
        if self._profiles is not None:
            self._profiles.learns = live.learns
        self._limits.change(limits)

    def read_anew(self, own: PeerLimits) -> None:
        """The peer's own configuration says otherwise."""
        self._own = own
        self._limits.change(self._live.peer_limits(own))


@contextmanager
def manager_attached(
    settings: Settings,
    kind: str,
    host_id: str,
    address: str,
    *,
    obey: Callable[[LiveConfig], None],
    ledger: Ledger,
    hear: Mapping[str, Callable[[Any], None]] | None = None,
    schedulers: Callable[[], Sequence[str]] = tuple,
) -> Iterator[ManagerLink | None]:
    """The same for any program of this node, in trio. None: there is no manager.

    Args:
        settings: Where the manager is, where this node is, and its certificate.
        kind: As in ``proto/manager.proto``.
        host_id: Its name.
        address: IP:PORT at which others reach it.
        obey: See ``daemon.live_configuration.Apply``.
        ledger: Of its figures.
        hear: See ``ManagerLink``.
        schedulers: By way of which it may come; none: it comes by itself.

    Raises:
        StateError: a library is missing.
    """
    if not settings.managers:
        yield None
        return
    try:
        from cafs.daemon.grpc_client import LinkTls  # noqa: PLC0415
        from cafs.daemon.live_configuration import LiveConfiguration  # noqa: PLC0415
        from cafs.daemon.manager_link import ManagerLink, ServiceFacts  # noqa: PLC0415
        from cafs.daemon.reporting import Reporting  # noqa: PLC0415
        from cafs.proto import manager_pb2  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[snapshotter]'") from e
    files = settings.peer_certificate, settings.peer_key, settings.peer_ca
    service = ServiceFacts(
        host_id=host_id,
        kind=manager_pb2.Kind.Value(kind),
        hostname=socket.gethostname(),
        address=address,
        idc=settings.idc,
        location=settings.location,
        version=__version__,
    )
    folder = settings.cache_dir / ("proxy" if kind == "PROXY" else "peer")
    live = LiveConfiguration(folder / "configuration.json", "seed" if kind == "SEED" else "scheduler", obey)
    live.recall()
    tls = LinkTls(*map(Path, files)) if all(files) else None
    hand_over = trio.lowlevel.current_trio_token().run_sync_soon
    reporting = Reporting(ledger, folder / "figures.json")
    with ManagerLink(
        settings.managers,
        service,
        tls,
        live,
        hand_over,
        schedulers=schedulers,
        hear=hear,
        reporting=reporting,
    ) as link:
        yield link
