"""The chunks a layer may refer to instead of storing them: its own so far, and a dictionary's.

Owned by one layer's conversion; worker threads look chunks up while the layer's thread adds. Columns,
not objects: some 80 bytes a chunk.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

from cafs.core.chunk import ChunkRef, Codec
from cafs.core.digest_table import DigestTable
from cafs.core.source import BlobRef

OWN_BLOB = 0
"""Number of the blob that is being written; further ones come from ``blob_number``."""


class KnownChunks:
    """Chunks by digest, each with its place in some chunk blob."""

    def __init__(self) -> None:
        self._table = DigestTable()
        self._offsets = array("Q")
        self._frame_bytes = array("L")
        self._blobs = array("L")
        self._codecs = bytearray()
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
        number = len(self._offsets)
        self._offsets.append(offset)
        self._frame_bytes.append(frame_bytes)
        self._blobs.append(blob)
        self._codecs.append(codec)
        self._table.add(digest, number)
        return number

    def blob_of(self, number: int) -> int:
        """The blob that chunk lies in."""
        return self._blobs[number]

    def ref(self, number: int, plain_bytes: int, blob_number: Callable[[int], int]) -> ChunkRef:
        """A chunk as a row of the chunk table names it."""
        return ChunkRef(
            digest=self._table.digest_at(number),
            plain_bytes=plain_bytes,
            blob=blob_number(self._blobs[number]),
            offset=self._offsets[number],
            frame_bytes=self._frame_bytes[number],
            codec=Codec(self._codecs[number]),
        )
