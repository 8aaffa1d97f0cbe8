"""Plain chunks in memory, least recently used out first, bounded in bytes.

Owned by one ``ChunkService`` and touched from its trio thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

Plain = bytes | memoryview


class PlainCache:
    """Chunk digest -> plain bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._chunks: OrderedDict[bytes, Plain] = OrderedDict()
        self.used_bytes = 0

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._chunks

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._chunks)

    def get(self, digest: bytes) -> Plain | None:
        """The chunk's bytes, now the most recently used; None if it is not here."""
        plain = self._chunks.get(digest)
        if plain is not None:
            self._chunks.move_to_end(digest)
        return plain

    def put(self, digest: bytes, plain: Plain) -> None:
        """Keep a verified chunk, and let the oldest go while there are too many bytes."""
        if digest in self._chunks:
            self._chunks.move_to_end(digest)
            return
        self._chunks[digest] = plain
        self.used_bytes += len(plain)
        while self.used_bytes > self._limit_bytes:
            _, oldest = self._chunks.popitem(last=False)
            self.used_bytes -= len(oldest)
