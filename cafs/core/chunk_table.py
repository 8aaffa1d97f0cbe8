"""The chunk table: which chunk holds which byte range of a layer's virtual image.

Rows of 64 bytes, sorted, without gaps; the fields are in ``docs/formats.md``. ``ChunkTable`` reads
them in place, out of a memory map: opening costs nothing, a lookup is a bisect, and no list of rows
is ever built. Rows are not believed here: every value that comes out is only as good as
``cafs.index.check`` found it, except that a ``ChunkRef`` never claims more than MAX_CHUNK_BYTES.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator

from cafs.core.chunk_ref import MAX_CHUNK_BYTES, ChunkRef, Codec
from cafs.errors import IntegrityError

ROW = struct.Struct("<Q32sQIIB7s")
"""end, digest, offset, frame_bytes, blob, codec, reserved (zero)."""
ROW_BYTES = ROW.size
_END = struct.Struct("<Q")
_NO_RESERVED = bytes(7)
_CODECS = tuple(Codec)
"""By value; calling the enum costs a microsecond."""


def encode_row(end: int, ref: ChunkRef) -> bytes:
    """One row; ``end`` is the end of the chunk's range in the virtual image."""
    return ROW.pack(end, ref.digest, ref.offset, ref.frame_bytes, ref.blob, ref.codec, _NO_RESERVED)


class ChunkTable:
    """Rows of a chunk table in a buffer.

    Args:
        rows: The table's bytes; a multiple of 64.
        data_start: Where the first chunk starts in the virtual image.
    """

    __slots__ = ("_count", "_rows", "data_start")

    def __init__(self, rows: memoryview, data_start: int) -> None:
        self._rows = rows
        self._count = len(rows) // ROW_BYTES
        self.data_start = data_start

    def __len__(self) -> int:
        return self._count

    @property
    def raw(self) -> memoryview:
        """All rows, for who goes over them in bulk."""
        return self._rows

    def release(self) -> None:
        """Give the buffer back; the table is of no use afterwards."""
        self._rows.release()

    @property
    def data_end(self) -> int:
        """End of the last chunk in the virtual image."""
        return self.end(self._count - 1) if self._count else self.data_start

    def end(self, row: int) -> int:
        """End of the row's range in the virtual image."""
        end: int = _END.unpack_from(self._rows, row * ROW_BYTES)[0]
        return end

    def start(self, row: int) -> int:
        """Start of the row's range in the virtual image."""
        return self.end(row - 1) if row else self.data_start

    def row(self, row: int) -> ChunkRef:
        """The row's chunk.

        Raises:
            IntegrityError: the row is not one that a writer makes.
        """
        end, digest, offset, frame_bytes, blob, codec, _ = ROW.unpack_from(self._rows, row * ROW_BYTES)
        plain_bytes = end - self.start(row)
        if not 0 < plain_bytes <= MAX_CHUNK_BYTES or codec >= len(_CODECS):
            raise IntegrityError(f"chunk table row {row} has {plain_bytes} plain bytes and codec {codec}")
        return ChunkRef(digest, plain_bytes, blob, offset, frame_bytes, _CODECS[codec])

    def rows(self, first: int, stop: int) -> Iterator[tuple[int, ChunkRef]]:
        """(start in the virtual image, chunk) of the rows first <= row < stop."""
        for row in range(first, stop):
            yield self.start(row), self.row(row)

    def find(self, virtual_offset: int) -> int:
        """The row whose range holds ``virtual_offset`` (in a table that was checked).

        Raises:
            IndexError: the offset lies outside the data region.
        """
        row = bisect_right(range(self._count), virtual_offset, key=self.end)
        if row == self._count or virtual_offset < self.data_start:
            raise IndexError(f"virtual offset {virtual_offset} is outside the data region")
        return row
