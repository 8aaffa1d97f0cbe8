"""A compact map from 32-byte digests to numbers, for millions of them.

Used by the converter for the chunks and files it has seen. A dict of bytes costs some 200 bytes an
entry, this 60. Entries are never removed. One thread may add while others look up: an addition
becomes visible only after its row is complete, and a lookup that runs beside a growth may miss.
"""

from __future__ import annotations

from array import array

_DIGEST_BYTES = 32
_FREE = 0
_FIRST_SLOTS = 1 << 10


class DigestTable:
    """Open addressing over rows of (digest, value)."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._values = array("Q")
        self._slots = array("L", bytes(_FIRST_SLOTS * array("L").itemsize))

    def __len__(self) -> int:
        return len(self._values)

    def find(self, digest: bytes) -> int | None:
        """The value of ``digest``, or None."""
        slots = self._slots
        mask = len(slots) - 1
        slot = int.from_bytes(digest[:8], "little") & mask
        while (row := slots[slot]) != _FREE:
            start = (row - 1) * _DIGEST_BYTES
            if self._digests[start : start + _DIGEST_BYTES] == digest:
                return self._values[row - 1]
            slot = (slot + 1) & mask
        return None

    def add(self, digest: bytes, value: int) -> None:
        """Add a digest that is not in the table."""
        if 3 * len(self._values) >= 2 * len(self._slots):
            self._slots = self._rehashed(2 * len(self._slots))
        self._digests += digest
        self._values.append(value)
        _insert(self._slots, digest, len(self._values))

    def digest_at(self, row: int) -> bytes:
        """The digest that was added as number ``row``, counting from 0."""
        return bytes(self._digests[row * _DIGEST_BYTES : (row + 1) * _DIGEST_BYTES])

    def _rehashed(self, size: int) -> array[int]:
        slots = array("L", bytes(size * array("L").itemsize))
        for row in range(len(self._values)):
            start = row * _DIGEST_BYTES
            _insert(slots, self._digests[start : start + 8], row + 1)
        return slots


def _insert(slots: array[int], digest: bytes | bytearray, row: int) -> None:
    mask = len(slots) - 1
    slot = int.from_bytes(digest[:8], "little") & mask
    while slots[slot] != _FREE:
        slot = (slot + 1) & mask
    slots[slot] = row
