"""How fast what nobody waits for may come while readers use the same link. Pure: the clock is handed in.

As long as a link is full, something stands in its queue, and a reader's chunk waits behind that. So for a
while after each read the fill stays below what the link was seen to carry, the bytes of readers counted in,
and the queue is empty when the next chunk comes. How much the link carries is seen when the fill takes all
that there is: when nobody has read for a while, and else now and then for a moment.
"""

from __future__ import annotations

from collections import deque
from statistics import median

SHARE = 0.91
"""Of what the link was seen to carry, for fill and readers together."""
READERS_S = 1.0
"""Who has read will read again."""
LOOK_EVERY_S, LOOKS = 2.0, 9
"""Others come to the link and leave it. The median of the last few counts: one look may be disturbed."""
PASSED_BYTES, LOOK_BYTES = 256 << 10, 512 << 10
"""What a link that rested passes at once is no part of a look, which takes 30 ms at 200 Mbit/s."""
SLACK_BYTES, LEAST_SLACK_S = 128 << 10, 0.003
"""May be made good after a rest that was too long, for a reader or by a clock's ticks."""


class LinkShare:
    """Of one host's fill, wherever it comes from."""

    def __init__(self) -> None:
        self._looks: deque[float] = deque(maxlen=LOOKS)
        """Bytes a second that the link carried."""
        self._read_at = float("-inf")
        self._due = 0.0
        """When what came would all be here at the pace that is kept next to readers."""
        self._next_look = float("-inf")
        self._looked_bytes, self._looked_s = -PASSED_BYTES, 0.0
        self._last_part: float | None = None
        """Since then we wait for nothing but the link; None: something was left lying in between."""

    def note_read(self, count: int, now: float) -> None:
        """So many bytes came for a reader."""
        self._read_at = now
        self._last_part = None
        self._pay(count, now)

    def note_gap(self) -> None:
        """What comes next may have been here for a while: how fast it comes says nothing of the link."""
        self._last_part = None

    def rest_s(self, count: int, now: float) -> float:
        """So many bytes of the fill came; returns how long to take no more of it."""
        self._pay(count, now)
        if self._is_free(now):
            self._look(count, now)
            self._last_part = now
            return 0.0
        self._last_part = None
        return max(0.0, self._due - now)

    def is_read(self, now: float, within_s: float = READERS_S) -> bool:
        """Readers use the link, or did so long ago."""
        return now <= self._read_at + within_s

    def _is_free(self, now: float) -> bool:
        """The fill may take all that there is."""
        return not self._looks or not self.is_read(now) or now >= self._next_look

    def _look(self, count: int, now: float) -> None:
        if self._last_part is None:
            return
        self._looked_bytes += count
        if self._looked_bytes <= 0:
            return
        self._looked_s += now - self._last_part
        if self._looked_bytes >= LOOK_BYTES:
            if self._looked_s > 0:
                self._looks.append(self._looked_bytes / self._looked_s)
            self._looked_bytes, self._looked_s = -PASSED_BYTES, 0.0
            self._next_look = now + LOOK_EVERY_S

    def _pay(self, count: int, now: float) -> None:
        if self._looks:
            bytes_per_s = median(self._looks) * SHARE
            slack_s = max(SLACK_BYTES / bytes_per_s, LEAST_SLACK_S)
            self._due = max(self._due, now - slack_s) + count / bytes_per_s
