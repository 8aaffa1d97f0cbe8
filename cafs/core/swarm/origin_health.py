"""How an origin is doing: when to leave it alone after failures. Pure."""

from __future__ import annotations

from dataclasses import dataclass

TRIES = 5
"""Failures one after the other that open the breaker."""
TOGETHER_S = 0.2
"""Requests that one fault meets fail within so much."""
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
LONGEST_TOLD_S = 60.0
"""No Retry-After silences us for longer."""


@dataclass(slots=True)
class Breaker:
    """Opens after some failures in a row; then one try is let through after each pause, ever longer ones."""

    failures: int = 0
    closed_until_s: float = 0.0
    trying: bool = False
    failed_at: float = 0.0

    def wait_s(self, now: float) -> float:
        """How long the origin is to be left alone; 0: ask, and then call one of ``note_*``."""
        if now < self.closed_until_s:
            return self.closed_until_s - now
        if self.failures >= TRIES:
            if self.trying:
                return FIRST_PAUSE_S
            self.trying = True
        return 0.0

    @property
    def is_failing(self) -> bool:
        """It failed so often that it is left alone; else a pause is one that it asked for."""
        return self.failures >= TRIES

    def note_answer(self) -> None:
        """It answered, whatever it said."""
        self.failures, self.trying, self.closed_until_s = 0, False, 0.0

    def note_failure(self, now: float) -> None:
        """No connection, silence, 5xx; what fails together counts once."""
        self.trying = False
        if self.failures and now - self.failed_at < TOGETHER_S:
            return
        self.failed_at = now
        self.failures += 1
        if self.failures >= TRIES:
            pause = FIRST_PAUSE_S * 2.0 ** min(self.failures - TRIES, 10)
            self.closed_until_s = max(self.closed_until_s, now + min(pause, LONGEST_PAUSE_S))

    def note_told_to_wait(self, now: float, seconds: float) -> None:
        """429 or 503 with Retry-After."""
        self.trying = False
        self.closed_until_s = max(self.closed_until_s, now + min(max(seconds, 0.0), LONGEST_TOLD_S))

    def note_given_up(self) -> None:
        """The request was cancelled before its answer: that says nothing."""
        self.trying = False
