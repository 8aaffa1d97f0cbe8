"""How far away sources are: what a request costs beside its bytes. Pure.

Next door a request costs its server's work, some milliseconds, and a reader gains little by having more than
he asked for. Ten times as far away the link would be idle for most of the time, and what a reader wants next
is better brought along.
"""

from __future__ import annotations

from collections import deque

NEAR_S = 0.015
"""A registry in the next rack answers within this."""
WORK_S = 0.005
"""Of an answer's time, the server's own."""
FARTHEST = 8.0
_KEPT = 8


class Distances:
    """Of sources, by the quickest of the last answers of each: others were long, or waited for the link."""

    def __init__(self) -> None:
        self._took_s: dict[str, deque[float]] = {}

    def note(self, source: str, took_s: float) -> None:
        """A source has answered a request in so many seconds."""
        if source not in self._took_s:
            self._took_s[source] = deque(maxlen=_KEPT)
        self._took_s[source].append(took_s)

    def of(self, source: str) -> float:
        """How many times as far as next door: 1 to ``FARTHEST``. One that has not answered yet is near."""
        took_s = min(self._took_s.get(source, ()), default=0.0)
        return min(max((took_s - WORK_S) / (NEAR_S - WORK_S), 1.0), FARTHEST)
