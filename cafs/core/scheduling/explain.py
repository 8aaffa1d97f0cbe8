"""Why: what was decided, the candidates and their scores, who was left out for which reason. Bounded."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Set
from typing import NamedTuple

from cafs.core.scheduling.score import WEIGHTS, Scores


class Looked(NamedTuple):
    """A host that was looked at."""

    host_id: str
    scores: Scores | None
    """The score and its parts; None: it was left out before it was scored."""
    filtered: str
    """Why it was left out, or came last; empty: it was not."""
    chosen: bool


class Seen:
    """All hosts that were looked at for one decision: kept as few objects, however many hosts there are."""

    __slots__ = ("_filtered", "_floats", "_scored", "chosen")

    def __init__(self) -> None:
        self._scored: list[str] = []
        """Host id and remark, in turn."""
        self._floats: list[float] | array[float] = []
        self._filtered: list[str] = []
        """Host id and reason, in turn."""
        self.chosen: Set[str] = frozenset()

    def close(self, chosen: Set[str]) -> None:
        """All were looked at, and these were taken."""
        self._floats = array("f", self._floats)
        self.chosen = chosen

    def add_scored(self, host_id: str, scores: Scores, remark: str = "") -> None:
        """One that could be chosen."""
        self._scored += (host_id, remark)
        self._floats.extend(scores)

    def add_filtered(self, host_id: str, reason: str) -> None:
        """One that could not."""
        self._filtered += (host_id, reason)

    def __iter__(self) -> Iterator[Looked]:
        width = len(WEIGHTS) + 1
        for place in range(len(self._scored) // 2):
            host_id, remark = self._scored[2 * place : 2 * place + 2]
            scores = tuple(self._floats[place * width : (place + 1) * width])
            yield Looked(host_id, scores, remark, host_id in self.chosen)
        for place in range(0, len(self._filtered), 2):
            yield Looked(self._filtered[place], None, self._filtered[place + 1], chosen=False)


class Decided(NamedTuple):
    """One decision."""

    at: float
    task_id: str
    peer_id: str
    what: str
    why: str
    seen: Seen | None = None


class Choices:
    """The last choices of parents in all tasks: each is large, so they share one bound."""

    def __init__(self, most: int) -> None:
        self._kept: deque[Decided] = deque(maxlen=most)

    def keep(self, decided: Decided) -> None:
        """One more."""
        self._kept.append(decided)

    def of(self, task_id: str, peer_id: str = "") -> list[Decided]:
        """Those of a task, or of one of its downloads."""
        return [d for d in self._kept if d.task_id == task_id and peer_id in ("", d.peer_id)]
