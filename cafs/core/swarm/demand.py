"""What the readers of one task want: which pieces, and which of them they wait for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cafs.core.swarm.layout import Bitmap, Layout
from cafs.core.swarm.priorities import USUAL

AHEAD = 3
"""Pieces that a reader will want next: asked for as if it waited for them already."""


@dataclass(slots=True, eq=False)
class Demand:
    """One reader's range of bytes."""

    first_byte: int = 0
    last_byte: int | None = None
    """Inclusive; None: to the end."""
    at_byte: int = 0
    """Where it is by now."""
    waits: bool = True
    """Somebody reads at ``at_byte``; else all of it is wanted, whenever it comes."""
    priority: int = USUAL
    bytes_per_s: int = 0
    """As fast as it wants it to come; 0: as fast as it can."""

    def is_whole(self) -> bool:
        return self.first_byte == 0 and self.last_byte is None

    def pieces(self, layout: Layout) -> range:
        """What it wants; nothing beyond the end."""
        last = self._last(layout)
        return layout.holding(self.first_byte, last) if last is not None else range(0)

    def _last(self, layout: Layout) -> int | None:
        if layout.content_bytes is None:
            return self.last_byte
        end = layout.content_bytes - 1
        return end if self.last_byte is None else min(self.last_byte, end)


def wanted(demands: Iterable[Demand], layout: Layout) -> Bitmap:
    """All pieces that anybody wants."""
    bits = 0
    for demand in demands:
        pieces = demand.pieces(layout)
        if pieces:
            bits |= (1 << pieces.stop) - (1 << pieces.start)
    return Bitmap(bits)


def rate_of(demands: Iterable[Demand]) -> int:
    """How fast it may come for all of them: as the fastest wants it; 0: no limit."""
    rates = [demand.bytes_per_s for demand in demands]
    return 0 if not all(rates) else max(rates, default=0)


def urgent(demands: Iterable[Demand], layout: Layout, have: Bitmap) -> list[int]:
    """What readers wait for and will want next, the most urgent first."""
    near: list[tuple[int, int]] = []
    for demand in demands:
        if not demand.waits:
            continue
        pieces = demand.pieces(layout)
        here = max(pieces.start, demand.at_byte // layout.piece_bytes)
        near += [(step, n) for step, n in enumerate(range(here, min(here + AHEAD, pieces.stop)))]
    seen: dict[int, None] = {}
    for _, number in sorted(near):
        if number not in have:
            seen.setdefault(number)
    return list(seen)
