"""A rate as a bucket of tokens that fills evenly. Pure: the clock is handed in.

Whoever takes more than is there goes into debt and is told how long to wait; takers are served in the order
in which they came, and the mean rate holds whatever the sizes are.
"""

from __future__ import annotations

BURST_S = 0.1
"""So much of a second's tokens may be spent at once: short enough for a link's queue, and few wake-ups."""
_LEAST_BURST = 64 << 10


class TokenBucket:
    """Tokens a second; ``rate`` 0 stands for no limit."""

    def __init__(self, rate: int, now: float) -> None:
        self._rate = rate
        self._tokens = self._burst
        self._at = now

    @property
    def rate(self) -> int:
        """Tokens a second; 0: unlimited."""
        return self._rate

    @property
    def _burst(self) -> float:
        return max(self._rate * BURST_S, _LEAST_BURST)

    def set_rate(self, rate: int, now: float) -> None:
        """Change it; debts are paid off at the new rate. Without a limit there are none."""
        self._fill(now)
        self._rate = rate
        self._tokens = min(self._tokens, self._burst) if rate else self._burst

    def take(self, amount: int, now: float) -> float:
        """Take tokens; returns for how many seconds the taker has to wait before it uses them."""
        if not self._rate:
            return 0.0
        self._fill(now)
        self._tokens -= amount
        return max(0.0, -self._tokens / self._rate)

    def is_full(self, now: float) -> bool:
        """Nothing was taken lately: a new one would give the same."""
        self._fill(now)
        return self._tokens >= self._burst

    def give_back(self, amount: int) -> None:
        """What was taken was not used."""
        self._tokens = min(self._tokens + amount, self._burst)

    def _fill(self, now: float) -> None:
        # A clock that jumped back fills nothing.
        self._tokens = min(self._tokens + max(0.0, now - self._at) * self._rate, self._burst)
        self._at = now
