"""A map from 32-byte digests to numbers, for millions of them: in scratch files, not in memory.

Used by the converter for the chunks and files it has seen. Entries are never removed. One thread may
add while others look up: an addition becomes visible only after its row is complete, and a lookup that
runs beside a growth may miss.
"""

from __future__ import annotations

import struct

from cafs.index.hash_index import HashIndex
from cafs.index.scratch import SETTLE_EVERY, Scratch

_ROW = struct.Struct("=32sQ")
_DIGEST_BYTES = 32
_SHORT_BYTES = 4
_VALUE = struct.Struct("=Q")


class DigestTable:
    """Rows of (digest, value), and where each digest's row is."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._rows = scratch.rows(_ROW.size)
        self._index = HashIndex(scratch)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, digest: bytes) -> int | None:
        """The value of ``digest``, or None."""
        row = self._index.find(_short(digest), lambda row: self.digest_at(row) == digest)
        if row is None:
            return None
        value: int = _VALUE.unpack_from(self._rows.data, row * _ROW.size + _DIGEST_BYTES)[0]
        return value

    def add(self, digest: bytes, value: int) -> None:
        """Add a digest that is not in the table."""
        row = self._count
        if row == self._rows.capacity:
            self._rows.grow()
        if not row % SETTLE_EVERY:
            self._scratch.settle()
        _ROW.pack_into(self._rows.data, row * _ROW.size, digest, value)
        self._count += 1
        self._index.add(_short(digest), row)

    def digest_at(self, row: int) -> bytes:
        """The digest that was added as number ``row``, counting from 0."""
        start = row * _ROW.size
        return self._rows.data[start : start + _DIGEST_BYTES]


def _short(digest: bytes) -> int:
    return int.from_bytes(digest[:_SHORT_BYTES], "little")
