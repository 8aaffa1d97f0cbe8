"""Frames depend on their chunks alone: not on what the same zstd context compressed before, or how."""

from __future__ import annotations

import random

import blake3
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from cafs.convert.compress import BUFFER_BYTES, compress_batch
from cafs.convert.known_chunks import KnownChunks
from cafs.core.chunk import Codec, decode_frame
from cafs.core.chunking import ChunkingOptions, compression_parameters
from cafs.index.scratch import Scratch

PARAMETERS = compression_parameters(ChunkingOptions())


def alone(plain: bytes) -> bytes:
    """What a chunk is stored as, made by a compressor that nothing else went through."""
    frame = zstandard.ZstdCompressor(compression_params=PARAMETERS).compress(plain)
    return frame if len(frame) < len(plain) else plain


def text(size: int, seed: int) -> bytes:
    """Bytes that compress, with matches near and far."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(1, 12)) for _ in range(200)]
    return b"".join(rng.choices(words, k=size // 6 + 1))[:size].ljust(size, b"\0")


pieces = st.tuples(
    st.sampled_from(["text", "noise", "zeros"]),
    st.integers(0, 3),
    st.sampled_from([1, 100, 4096, 40_000, 65_537, 262_144]),
)


def made(kind: str, seed: int, size: int) -> bytes:
    if kind == "zeros":
        return bytes(size)
    return text(size, seed) if kind == "text" else random.Random(seed).randbytes(size)


@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=12))
def test_a_frame_is_the_same_in_any_company(chunks: list[tuple[str, int, int]]) -> None:
    plains = [made(*chunk) for chunk in chunks]
    buffer, bounds, at = bytearray(BUFFER_BYTES), [], 0
    for plain in plains:
        buffer[at : at + len(plain)] = plain
        bounds.append((at, at + len(plain)))
        at += len(plain)
    frames = compress_batch(buffer, bounds, KnownChunks(Scratch()), PARAMETERS)
    for plain, (digest, codec, frame) in zip(plains, frames, strict=True):
        assert digest == blake3.blake3(plain).digest()
        assert frame is not None
        stored = frame.tobytes()
        assert stored == alone(plain)
        assert decode_frame(digest, codec, stored, len(plain)).plain == plain


def test_a_context_gives_the_same_frame_after_gigabytes() -> None:
    """The match finder's positions go on counting from frame to frame; past 2 GB and more they are turned
    back. Neither may show."""
    sample, filler = text(200_000, 1), bytes(64 << 20)
    expected = alone(sample)
    compressor = zstandard.ZstdCompressor(compression_params=PARAMETERS)
    for _ in range(70):
        assert compressor.compress(sample) == expected
        compressor.compress(filler)


def test_what_is_known_is_not_compressed() -> None:
    buffer = bytearray(text(100_000, 1) + text(100_000, 2))
    known = KnownChunks(Scratch())
    digest = blake3.blake3(buffer[:100_000]).digest()
    known.add_own(digest, 0, 5, Codec.RAW)
    (first, _, none), (_, codec, frame) = compress_batch(
        buffer, [(0, 100_000), (100_000, 200_000)], known, PARAMETERS
    )
    assert (first, none) == (digest, None)
    assert codec == Codec.ZSTD
    assert frame is not None
