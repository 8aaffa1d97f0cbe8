"""How long a reader waits for an origin that may be away. Pure.

The kernel asks again, in smaller pieces, after a read-ahead that failed: with a whole deadline for each,
one reader would wait for several. So after one that passed in vain the next ones are short, and double with
every further failure up to the whole again: an origin that is merely slow is not given up. Any answer
restores the whole.
"""

from __future__ import annotations

FIRST_SHARE = 1 / 32
"""Of the deadline, right after one that passed in vain: 2 s of a minute."""
LEAST_S = 1.0
"""Never shorter, if the whole deadline is not: an origin that is well again must have the time to answer."""


class Patience:
    """The deadline that the next reader gets."""

    def __init__(self, deadline_s: float) -> None:
        self._whole_s = deadline_s
        self._next_s = deadline_s

    @property
    def seconds(self) -> float:
        """How long to wait now."""
        return self._next_s

    def note_answer(self) -> None:
        """A reader got its bytes."""
        self._next_s = self._whole_s

    def note_timeout(self, waited_s: float) -> None:
        """A reader gave up after so long."""
        if waited_s >= self._whole_s:
            # Also those that began with the first: they waited as long, and are no further failures.
            self._next_s = min(max(self._whole_s * FIRST_SHARE, LEAST_S), self._whole_s)
        elif waited_s >= self._next_s:
            self._next_s = min(2 * self._next_s, self._whole_s)
