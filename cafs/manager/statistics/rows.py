"""From reports to rows: sums by thing, cluster and moment. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import add, itemgetter
from typing import Any

from cafs.core.statistics.amounts import AMOUNTS, LEVELS
from cafs.manager.statistics.incoming import Amounts, Levels, Told, rest_of
from cafs.manager.statistics.keeping import GRAINS, Of

MOST_PARTS = 2000
"""Tasks, or applications, of one cluster in one batch; the others are summed up."""
COLUMNS = ("kind", "resolution_s", "at", "subject", "cluster_id", *AMOUNTS, *LEVELS)
"""Of a row. ``at`` in seconds since 1970; levels are None where nobody looked."""
Row = tuple[Any, ...]
"""By ``COLUMNS``."""
_UNSEEN = (None,) * len(LEVELS)


@dataclass(frozen=True, slots=True)
class Arrived:
    """A report, of whom."""

    host_id: str
    cluster_id: int
    """0: in none."""
    told: Told


@dataclass
class Sums:
    """What a batch comes to: amounts by thing, then rows."""

    at: int
    """Seconds since 1970."""
    _amounts: dict[tuple[Of, int, str], Amounts] = field(default_factory=dict)
    _levels: dict[tuple[int, str], Levels] = field(default_factory=dict)
    _parts: dict[tuple[Of, int], int] = field(default_factory=dict)

    def add(self, arrived: Arrived) -> None:
        """One more report."""
        told, cluster_id = arrived.told, arrived.cluster_id
        self._levels[cluster_id, arrived.host_id] = told.levels
        self._add(Of.HOST, cluster_id, arrived.host_id, told.all)
        if any(told.all):
            self._add(Of.CLUSTER, cluster_id, "", told.all)
            self._add_parts(Of.TASK, cluster_id, told.tasks, told.all)
            self._add_parts(Of.APPLICATION, cluster_id, told.applications, told.all)

    def rows(self) -> list[Row]:
        """As they are written, in the order of their keys."""
        begins = {
            of: [(grain.resolution_s, self.at - self.at % grain.resolution_s) for grain in GRAINS[of]]
            for of in Of
        }
        found: list[Row] = []
        for (of, cluster_id, subject), amounts in sorted(self._amounts.items(), key=itemgetter(0)):
            levels = self._levels.get((cluster_id, subject), _UNSEEN) if of is Of.HOST else _UNSEEN
            rest = (subject, cluster_id, *amounts, *levels)
            found += [(of.value, resolution_s, at, *rest) for resolution_s, at in begins[of]]
        return found

    def _add_parts(self, of: Of, cluster_id: int, parts: dict[str, Amounts], whole: Amounts) -> None:
        taken = {}
        for name, amounts in parts.items():
            if (of, cluster_id, name) not in self._amounts:
                if self._parts.get((of, cluster_id), 0) >= MOST_PARTS:
                    continue
                self._parts[of, cluster_id] = self._parts.get((of, cluster_id), 0) + 1
            taken[name] = amounts
            self._add(of, cluster_id, name, amounts)
        if any(rest := rest_of(whole, taken.values())):
            self._add(of, cluster_id, "", rest)

    def _add(self, of: Of, cluster_id: int, subject: str, amounts: Amounts) -> None:
        key = of, cluster_id, subject
        found = self._amounts.get(key)
        self._amounts[key] = amounts if found is None else tuple(map(add, found, amounts))


def sums_of(reports: Iterable[Arrived], at: int) -> Sums:
    """Of a batch."""
    sums = Sums(at)
    for arrived in reports:
        sums.add(arrived)
    return sums
