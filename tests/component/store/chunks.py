"""Chunks for the store's tests."""

from __future__ import annotations

import random

import zstandard

from cafs.core.chunk import Chunk, Codec, chunk_digest


def raw_chunk(seed: int, size: int = 20_000) -> Chunk:
    """Bytes that do not compress; the same for the same seed and size."""
    return raw_chunk_of(random.Random(f"{seed}/{size}").randbytes(size))


def raw_chunk_of(plain: bytes) -> Chunk:
    """These bytes, stored as they are."""
    return Chunk(chunk_digest(plain), Codec.RAW, plain, plain)


def zstd_chunk(seed: int, size: int = 65536) -> Chunk:
    """About half of the bytes repeat."""
    rng = random.Random(seed)
    half = rng.randbytes(size // 2)
    plain = half + bytes(size // 4) + half[: size - size // 2 - size // 4]
    return Chunk(chunk_digest(plain), Codec.ZSTD, zstandard.compress(plain, 3), plain)


def wanted(chunk: Chunk) -> tuple[bytes, int]:
    """What ``get`` is asked for this chunk."""
    return chunk.digest, len(chunk.plain)
