"""The chunks a layer may refer to instead of storing them: its own so far, and a dictionary's.

Owned by one layer's conversion; worker threads look chunks up while the layer's thread adds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from cafs.convert.digest_table import DigestTable
from cafs.core.chunk import ChunkRef, Codec
from cafs.core.source import BlobRef
from cafs.index.scratch import Scratch

OWN_BLOB = 0
"""Number of the blob that is being written; further ones come from ``blob_number``."""
_ROW = struct.Struct("=QIIB7x")
"""offset, frame bytes, blob, codec"""


class KnownChunks:
    """Chunks by digest, each with its place in some chunk blob."""

    def __init__(self, scratch: Scratch) -> None:
        self._table = DigestTable(scratch)
        self._rows = scratch.rows(_ROW.size)
        self._blob_numbers: dict[BlobRef, int] = {}

    def blob_number(self, blob: BlobRef) -> int:
        """The number of a blob that is not the layer's own."""
        return self._blob_numbers.setdefault(blob, len(self._blob_numbers) + 1)

    @property
    def blobs(self) -> list[BlobRef]:
        """The blobs that are not the layer's own; the first is number 1."""
        return list(self._blob_numbers)

    def find(self, digest: bytes) -> int | None:
        """The number of the chunk with this digest."""
        return self._table.find(digest)

    def add_own(self, digest: bytes, offset: int, frame_bytes: int, codec: Codec) -> int:
        """Add a chunk that now lies in the layer's own blob."""
        return self.add(digest, OWN_BLOB, offset, frame_bytes, codec)

    def add(self, digest: bytes, blob: int, offset: int, frame_bytes: int, codec: int) -> int:
        """Add a chunk that is not known; its number."""
        number = len(self._table)
        if number == self._rows.capacity:
            self._rows.grow()
        _ROW.pack_into(self._rows.data, number * _ROW.size, offset, frame_bytes, blob, codec)
        self._table.add(digest, number)
        return number

    def blob_of(self, number: int) -> int:
        """The blob that chunk lies in."""
        blob: int = self._row(number)[2]
        return blob

    def ref(self, number: int, plain_bytes: int, blob_number: Callable[[int], int]) -> ChunkRef:
        """A chunk as a row of the chunk table names it."""
        offset, frame_bytes, blob, codec = self._row(number)
        return ChunkRef(
            digest=self._table.digest_at(number),
            plain_bytes=plain_bytes,
            blob=blob_number(blob),
            offset=offset,
            frame_bytes=frame_bytes,
            codec=Codec(codec),
        )

    def _row(self, number: int) -> tuple[int, int, int, int]:
        return _ROW.unpack_from(self._rows.data, number * _ROW.size)
