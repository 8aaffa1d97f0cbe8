"""Hands out places in the inode area of an EROFS metadata region. Pure; used by ``layout``."""

from __future__ import annotations

from bisect import bisect_left, insort

from cafs.core.erofs import BLOCK_BYTES, INODE_BYTES, SLOT_BYTES

_OPEN_GAPS = 1024


def round_up(value: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-value // unit) * unit


class SlotAllocator:
    """One pass from front to back, filling the gaps that inline tails leave with later inodes."""

    def __init__(self, start: int) -> None:
        self.end = start
        self._gaps: list[tuple[int, int]] = []
        """(bytes, start), sorted."""

    def place(self, head: int, tail: int) -> int:
        """Offset for an inode of ``head`` bytes, followed by ``tail`` bytes that cross no block."""
        need = round_up(head + tail, SLOT_BYTES)
        best = bisect_left(self._gaps, (need, 0))
        if best < len(self._gaps):
            # A gap lies within one block, so whatever fits into it crosses none.
            room, offset = self._gaps.pop(best)
            self._add_gap(offset + need, room - need)
            return offset
        offset = self.end
        if tail and (offset + head) % BLOCK_BYTES + tail > BLOCK_BYTES:
            offset = self._next_fit(head, tail)
            self._add_gap(self.end, offset - self.end)
        self.end = offset + need
        return offset

    def _add_gap(self, start: int, room: int) -> None:
        if room >= INODE_BYTES and start % BLOCK_BYTES + room <= BLOCK_BYTES:
            insort(self._gaps, (room, start))
            if len(self._gaps) > _OPEN_GAPS:
                del self._gaps[0]

    def _next_fit(self, head: int, tail: int) -> int:
        if head + tail <= BLOCK_BYTES:
            return round_up(self.end, BLOCK_BYTES)
        # Only with xattrs of kilobytes: let the tail begin at (or just behind) a block boundary.
        missing = -(self.end + head) % BLOCK_BYTES
        return self.end + round_up(missing, SLOT_BYTES)
