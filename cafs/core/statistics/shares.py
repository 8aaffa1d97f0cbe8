"""Which part of what is counted belongs to which task and which application. Pure.

Bounded: of many names those stay that have the most bytes; the others are in the sum over all, which is
counted elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

MOST_KEPT, MOST_TOLD = 256, 16
Parts = dict[str, Counter[str]]
"""Amounts by name."""


class Shares:
    """See the module. Since they were last taken."""

    def __init__(self) -> None:
        self._tasks: Parts = {}
        self._applications: Parts = {}

    def note(self, task: str, application: str, **amounts: int) -> None:
        """Something happened for a task that an application wants (empty: it did not say its name)."""
        _add(self._tasks, task, amounts)
        if application:
            _add(self._applications, application, amounts)

    def take(self) -> tuple[Parts, Parts]:
        """The most important tasks and applications; counting begins anew."""
        taken = _largest(self._tasks, MOST_TOLD), _largest(self._applications, MOST_TOLD)
        self._tasks, self._applications = {}, {}
        return taken


def weight(amounts: Counter[str]) -> int:
    """How important it is: its bytes, and a little for anything else."""
    return sum(count for name, count in amounts.items() if name.endswith("_bytes")) + 1


def _add(parts: Parts, name: str, amounts: dict[str, int]) -> None:
    found = parts.get(name)
    if found is None:
        if len(parts) >= MOST_KEPT:
            kept = _largest(parts, MOST_KEPT // 2)
            parts.clear()
            parts.update(kept)
        found = parts[name] = Counter()
    for key, count in amounts.items():
        found[key] += count


def _largest(parts: Parts, most: int) -> Parts:
    order: Iterable[tuple[str, Counter[str]]] = sorted(parts.items(), key=lambda part: -weight(part[1]))
    return dict(list(order)[:most])
