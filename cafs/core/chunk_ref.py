"""What a table says of a chunk. See ``cafs.core.chunk``, which verifies it, and needs libraries for that."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

DIGEST_BYTES = 32
MAX_CHUNK_BYTES = 4 << 20
"""No chunk is larger, whatever a table says: bounds every allocation made for one."""


class Codec(IntEnum):
    """How a frame holds its plain bytes."""

    RAW = 0
    ZSTD = 1


class ChunkRef(NamedTuple):
    """Where a chunk's frame lies and what it must decode to."""

    digest: bytes
    """BLAKE3-256 of the plain bytes, 32 raw bytes."""
    plain_bytes: int
    blob: int
    """Number of the chunk blob in the layer index's blob table."""
    offset: int
    """Of the frame in that blob, in bytes."""
    frame_bytes: int
    codec: Codec
