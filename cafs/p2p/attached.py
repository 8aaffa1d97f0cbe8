"""This peer or seed with the manager: what it obeys, asks, learns, counts and does for jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cafs.core.settings import Settings
from cafs.core.statistics.ledger import Ledger
from cafs.p2p.manager import Obedience, manager_attached
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.scheduler_messages import HostFacts
from cafs.p2p.work import Work

if TYPE_CHECKING:
    from cafs.p2p.orders import Orders


@contextmanager
def peer_attached(
    settings: Settings,
    facts: HostFacts,
    obedience: Obedience,
    *,
    profiles: ProfileRelay,
    on_schedulers: Callable[[Sequence[str]], None],
    schedulers: Callable[[], Sequence[str]],
    ledger: Ledger,
    work: Work,
) -> Iterator[None]:
    """The manager knows of it while the context lasts.

    Args:
        settings: Where the manager is.
        facts: Who this is.
        obedience: What it obeys with.
        profiles: Hears what was learned.
        on_schedulers: Hears which schedulers the manager names.
        schedulers: See ``manager_attached``.
        ledger: Its figures.
        work: What jobs are done with.

    Raises:
        StateError: a library is missing.
    """
    orders: Orders | None = None

    def hear_orders(told: Any) -> None:
        nonlocal orders
        if orders is None:
            from cafs.p2p.orders import Orders  # noqa: PLC0415 - loads protobuf, which is there by now

            assert link is not None
            orders = Orders(work, link.say)
        orders.take(told)

    kind = "SEED" if facts.seed else "PEER"
    hear = {
        "schedulers": lambda told: on_schedulers(list(told.addresses)),
        "learned_profile": profiles.hear_learned,
        "start_wanted": profiles.hear_wanted,
        "orders": hear_orders,
    }
    with manager_attached(
        settings,
        kind,
        facts.host_id,
        facts.address,
        obey=obedience.obey,
        ledger=ledger,
        hear=hear,
        schedulers=schedulers,
    ) as link:
        profiles.link = link
        yield
