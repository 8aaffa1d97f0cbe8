"""Frames that came last, in memory.

They bridge the moments in which a chunk is on its way no more and not in the store yet, and those that a full
disk leaves behind: without them somebody would ask the registry twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from cafs.core.chunk import Chunk, ChunkRef
from cafs.p2p.chunk_verify import Frame


class RecentFrames:
    """Bounded in bytes; the oldest go first."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._chunks: dict[bytes, Chunk] = {}

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Keep verified chunks for a while; their plain bytes are let go."""
        for chunk in chunks:
            if chunk.digest not in self._chunks:
                self._chunks[chunk.digest] = Chunk(chunk.digest, chunk.codec, chunk.frame, b"")
                self._bytes += len(chunk.frame)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._chunks.pop(next(iter(self._chunks))).frame)

    def chunk(self, ref: ChunkRef) -> Chunk | None:
        """The chunk, without its plain bytes, if it is the one that is meant."""
        chunk = self._chunks.get(ref.digest)
        fits = chunk is not None and (chunk.codec, len(chunk.frame)) == (ref.codec, ref.frame_bytes)
        return chunk if fits else None

    def get(self, ref: ChunkRef) -> Frame | None:
        """The frame of that chunk."""
        chunk = self.chunk(ref)
        return chunk.frame if chunk is not None else None
