"""Hands out places in the inode area of an EROFS metadata region. Pure; used by ``layout``."""

from __future__ import annotations

from collections import deque

from cafs.core.erofs import BLOCK_BYTES, INODE_BYTES, SLOT_BYTES

_OPEN_GAPS = 16


def round_up(value: int, unit: int) -> int:
    """The next multiple of ``unit``."""
    return -(-value // unit) * unit


class SlotAllocator:
    """One pass from front to back, filling the gaps that inline tails leave with later inodes."""

    def __init__(self, start: int) -> None:
        self.end = start
        self._gaps: deque[tuple[int, int]] = deque(maxlen=_OPEN_GAPS)

    def place(self, head: int, tail: int) -> int:
        """Offset for an inode of ``head`` bytes, followed by ``tail`` bytes that cross no block."""
        need = head + tail
        for number, (start, end) in enumerate(self._gaps):
            if end - start >= need:
                self._gaps[number] = (round_up(start + need, SLOT_BYTES), end)
                return start
        offset = self.end
        if tail and (offset + head) % BLOCK_BYTES + tail > BLOCK_BYTES:
            offset = self._next_fit(head, tail)
            if offset - self.end >= INODE_BYTES:
                self._gaps.append((self.end, offset))
        self.end = round_up(offset + need, SLOT_BYTES)
        return offset

    def _next_fit(self, head: int, tail: int) -> int:
        if head + tail <= BLOCK_BYTES:
            return round_up(self.end, BLOCK_BYTES)
        # Only with xattrs of kilobytes: let the tail begin at (or just behind) a block boundary.
        missing = -(self.end + head) % BLOCK_BYTES
        return self.end + round_up(missing, SLOT_BYTES)
