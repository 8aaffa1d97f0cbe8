"""Who fed whom: pieces that hosts got from one another and from the source, and how fast of late. Bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

_MEMORY_S = 5.0
"""A rate is what came in about so long."""


class Fed(NamedTuple):
    """One host's part of what another one got of a task."""

    parent: str
    """Host id; empty: the source."""
    child: str
    pieces: int
    pieces_per_s: float


@dataclass(slots=True)
class _Feed:
    pieces: int = 0
    rate: float = 0.0
    at: float = 0.0

    def rate_at(self, now: float) -> float:
        return self.rate * math.exp(-max(0.0, now - self.at) / _MEMORY_S)


class Feeds:
    """Of all tasks together, the pairs of hosts between which something went last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[tuple[str, str, str], _Feed] = {}
        """By task, parent, child: longest quiet first."""

    def note(self, task_id: str, parent: str, child: str, pieces: int, now: float) -> None:
        """So many pieces more went from ``parent`` to ``child``."""
        key = (task_id, parent, child)
        feed = self._kept.pop(key, None)
        if feed is None:
            if len(self._kept) >= self._most:
                del self._kept[next(iter(self._kept))]
            feed = _Feed()
        self._kept[key] = feed
        feed.pieces += pieces
        feed.rate = feed.rate_at(now) + pieces / _MEMORY_S
        feed.at = now

    def of(self, task_id: str, now: float) -> list[Fed]:
        """Those of a task, the busiest first."""
        found = [
            Fed(parent, child, feed.pieces, feed.rate_at(now))
            for (task, parent, child), feed in self._kept.items()
            if task == task_id
        ]
        return sorted(found, key=lambda fed: (-fed.pieces_per_s, -fed.pieces, fed.parent, fed.child))
