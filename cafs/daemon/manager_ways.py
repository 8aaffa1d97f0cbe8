"""By which way a host reaches the manager: through one of its schedulers, or directly. Pure.

Schedulers are ordered by a rendezvous hash of host and address, so hosts spread over them; the first two are
tried, then the manager itself, then it begins anew. Who came in by a later way than the first one looks
for a better one now and then, ever more rarely if there is none. ``now`` is of any clock that only goes
forward, in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from blake3 import blake3

_TRIED = 2
"""Schedulers, before the manager itself."""
LOOK_S, _LONGEST_LOOK_S = (10.0, 30.0), 300.0
_NOT_AGAIN_S = 60.0, 180.0
"""A scheduler that passes nobody on is not asked for so long: it is an older one, or has no manager."""


@dataclass(frozen=True, slots=True)
class Way:
    """One of them."""

    address: str
    """HOST:PORT."""
    by_scheduler: bool


class Ways:
    """See the module."""

    def __init__(
        self,
        host_id: str,
        managers: Sequence[str],
        random: Random,
        look_s: tuple[float, float] = LOOK_S,
    ) -> None:
        """
        Args:
            host_id: Of this host.
            managers: HOST:PORT of the manager's replicas.
            random: So that not all hosts do the same at once.
            look_s: After how long, at least and at most, it is first looked for a better way.
        """
        self._host_id = host_id
        self._managers = managers
        self._random = random
        self._look_s = look_s
        self._looks = 1
        self._turn = 0
        self._manager = 0
        self._not_before: dict[str, float] = {}

    def next(self, schedulers: Sequence[str], now: float) -> Way:
        """The one to try now."""
        ways = self._in_order(schedulers, now)
        return ways[self._turn % len(ways)]

    def better(self, way: Way, schedulers: Sequence[str], now: float) -> list[Way]:
        """Those to try instead of one that holds, in order."""
        ways = self._in_order(schedulers, now)
        return ways[: ways.index(way)] if way in ways else ways[:-1]

    def look_in(self) -> float:
        """Seconds until it is looked for a better way again."""
        return min(self._random.uniform(*self._look_s) * self._looks, _LONGEST_LOOK_S)

    def holds(self) -> None:
        """The manager has us, by the way that was tried."""
        self._turn, self._looks = 0, 1

    def failed(self, way: Way, now: float, *, for_long: bool) -> None:
        """It did not lead there, or does not any more; ``for_long``: and will not soon."""
        self._turn += 1
        if not way.by_scheduler:
            self._manager += 1
        elif for_long:
            self._not_before[way.address] = now + self._random.uniform(*_NOT_AGAIN_S)

    def found_no_better(self, way: Way, now: float, *, for_long: bool) -> None:
        """A better one did not lead there: the one that holds stays."""
        self._looks *= 2
        if for_long:
            self._not_before[way.address] = now + self._random.uniform(*_NOT_AGAIN_S)

    def _in_order(self, schedulers: Sequence[str], now: float) -> list[Way]:
        asked = [address for address in schedulers if self._not_before.get(address, now) <= now]
        asked.sort(key=lambda address: blake3(f"{self._host_id}|{address}".encode()).digest(8))
        direct = self._managers[self._manager % len(self._managers)]
        return [
            *(Way(address, by_scheduler=True) for address in asked[:_TRIED]),
            Way(direct, by_scheduler=False),
        ]
