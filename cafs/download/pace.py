"""How fast bytes may come: a bucket that holds a tenth of a second. Pure."""

from __future__ import annotations

from dataclasses import dataclass

_BURST_S = 0.1


@dataclass(slots=True)
class Pace:
    """A limit, or none."""

    bytes_per_s: float | None
    _paid_until: float = 0.0

    def wait_s(self, amount: int, now: float) -> float:
        """How long to wait after ``amount`` bytes came at ``now``."""
        if self.bytes_per_s is None:
            return 0.0
        self._paid_until = max(self._paid_until, now - _BURST_S) + amount / self.bytes_per_s
        return max(0.0, self._paid_until - now)
