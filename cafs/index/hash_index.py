"""``HashIndex``: finds rows of a table by a hash of their key. Pure but for where it keeps its slots.

Used for the names of a layer and for digests of millions of chunks and files. A slot holds 32 bits of
the hash beside the row's number: hardly ever is a row looked at that is not the one, and the table
grows without looking at any. A row's place is told by the highest bits of the hash, so a table that
grows is copied front to back.
"""

from __future__ import annotations

from collections.abc import Callable

from cafs.index.scratch import Rows, Scratch

_FIRST_SLOTS = 1 << 11
_HASH_BITS = 32
_ROW = 0xFFFFFFFF
_SETTLE_EVERY = 1 << 16
"""Slots: they come in order."""


class HashIndex:
    """Open addressing. One thread may add while others find, see ``find``. Rows are never removed."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._used = 0
        self._rows, self._slots = self._new(_FIRST_SLOTS)

    def find(self, short: int, is_it: Callable[[int], bool]) -> int | None:
        """The row of a key, or None. Beside a growth it may miss what is there.

        Args:
            short: 32 bits of the key's hash.
            is_it: Whether the row has the key; asked of rows that have the same 32 bits.
        """
        slots = self._slots
        mask = len(slots) - 1
        place = short >> _HASH_BITS + 1 - len(slots).bit_length()
        while entry := slots[place]:
            if entry >> _HASH_BITS == short and is_it((entry & _ROW) - 1):
                return (entry & _ROW) - 1
            place = (place + 1) & mask
        return None

    def add(self, short: int, row: int) -> None:
        """Add a row whose key was not found and which is complete: others may find it now."""
        if 5 * self._used >= 3 * len(self._slots):
            self._grow()
        self._used += 1
        _insert(self._slots, short << _HASH_BITS | row + 1)

    def _grow(self) -> None:
        old_rows, old = self._rows, self._slots
        rows, slots = self._new(2 * len(old))
        for place, entry in enumerate(old):
            if entry:
                _insert(slots, entry)
            if not place % _SETTLE_EVERY:
                self._scratch.settle()
        self._rows, self._slots = rows, slots
        self._scratch.drop(old_rows)

    def _new(self, count: int) -> tuple[Rows, memoryview]:
        rows = self._scratch.rows(8, count)
        return rows, rows.column("Q")[:count]


def _insert(slots: memoryview, entry: int) -> None:
    mask = len(slots) - 1
    place = entry >> 2 * _HASH_BITS + 1 - len(slots).bit_length()
    while slots[place]:
        place = (place + 1) & mask
    slots[place] = entry
