"""From reports to rows: sums by thing, cluster and moment. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cafs.core.statistics.amounts import AMOUNTS, LEVELS
from cafs.manager.statistics.incoming import Told, rest_of
from cafs.manager.statistics.keeping import GRAINS, Of

MOST_PARTS = 2000
"""Tasks, or applications, of one cluster in one batch; the others are summed up."""


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
    _amounts: dict[tuple[Of, int, str], dict[str, int]] = field(default_factory=dict)
    _levels: dict[tuple[int, str], dict[str, int]] = field(default_factory=dict)
    _parts: dict[tuple[Of, int], int] = field(default_factory=dict)

    def add(self, arrived: Arrived) -> None:
        """One more report."""
        told, cluster_id = arrived.told, arrived.cluster_id
        self._levels[cluster_id, arrived.host_id] = told.levels
        self._add(Of.HOST, cluster_id, arrived.host_id, told.all)
        if told.all:
            self._add(Of.CLUSTER, cluster_id, "", told.all)
            self._add_parts(Of.TASK, cluster_id, told.tasks, told.all)
            self._add_parts(Of.APPLICATION, cluster_id, told.applications, told.all)

    def rows(self) -> list[dict[str, Any]]:
        """As they are written, in the order of their keys."""
        found: list[dict[str, Any]] = []
        for (of, cluster_id, subject), amounts in sorted(self._amounts.items(), key=lambda found: found[0]):
            levels = self._levels.get((cluster_id, subject), {}) if of is Of.HOST else {}
            values: dict[str, int | None] = {name: amounts.get(name, 0) for name in AMOUNTS}
            values |= {name: levels.get(name) for name in LEVELS}
            for grain in GRAINS[of]:
                at = self.at - self.at % grain.resolution_s
                key = {"kind": of.value, "resolution_s": grain.resolution_s, "cluster_id": cluster_id}
                found.append({**key, "subject": subject, "at": at, **values})
        return found

    def _add_parts(
        self, of: Of, cluster_id: int, parts: dict[str, dict[str, int]], whole: dict[str, int]
    ) -> None:
        taken = {}
        for name, amounts in parts.items():
            if (of, cluster_id, name) not in self._amounts:
                if self._parts.get((of, cluster_id), 0) >= MOST_PARTS:
                    continue
                self._parts[of, cluster_id] = self._parts.get((of, cluster_id), 0) + 1
            taken[name] = amounts
            self._add(of, cluster_id, name, amounts)
        if rest := rest_of(whole, taken.values()):
            self._add(of, cluster_id, "", rest)

    def _add(self, of: Of, cluster_id: int, subject: str, amounts: dict[str, int]) -> None:
        found = self._amounts.setdefault((of, cluster_id, subject), {})
        for name, count in amounts.items():
            found[name] = found.get(name, 0) + count


def sums_of(reports: Iterable[Arrived], at: int) -> Sums:
    """Of a batch."""
    sums = Sums(at)
    for arrived in reports:
        sums.add(arrived)
    return sums
