"""How fast one core of this machine makes verified bytes of chunks, which bounds every read from a store."""

from __future__ import annotations

import time
from pathlib import Path

import blake3
import zstandard

from bench.measure import median

SAMPLE_BYTES = 128 << 20
PIECE_BYTES = 80 << 10
"""About an average chunk."""
ROUNDS = 3


def decode_speed(file: Path) -> float:
    """MB/s of plain bytes, of zstd and BLAKE3 alone, from memory to memory, on the beginning of ``file``."""
    with file.open("rb") as stream:
        sample = stream.read(SAMPLE_BYTES)
    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    frames = [compressor.compress(sample[at : at + PIECE_BYTES]) for at in range(0, len(sample), PIECE_BYTES)]
    return len(sample) / 1e6 / median([_decode(decompressor, frames) for _ in range(ROUNDS)])


def _decode(decompressor: zstandard.ZstdDecompressor, frames: list[bytes]) -> float:
    began = time.perf_counter()
    for frame in frames:
        blake3.blake3(decompressor.decompress(frame)).digest()
    return time.perf_counter() - began
