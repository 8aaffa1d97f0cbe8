"""From frames that somebody sent to verified chunks: in the trio thread when they are few."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from cafs.core.chunk import Chunk, ChunkRef, FrameDecoder
from cafs.errors import IntegrityError

INLINE_BYTES = 96 << 10
"""Plain bytes: 60 us, about what going to a worker thread costs."""

Frame = bytes | memoryview
Form = tuple[bytes, int, int]
"""Digest, codec and length of a frame: a chunk of two blobs may be compressed in two ways."""


class MisdescribedError(IntegrityError):
    """The frame is the chunk, but not of the size that was told: who sent it is not to blame."""


def form_of(ref: ChunkRef) -> Form:
    """Of the frame that is meant."""
    return ref.digest, ref.codec, ref.frame_bytes


def form_of_chunk(chunk: Chunk) -> Form:
    """Of the frame that came."""
    return chunk.digest, chunk.codec, len(chunk.frame)


async def verify_some(
    frames: Sequence[tuple[ChunkRef, Frame]], limiter: trio.CapacityLimiter
) -> list[Chunk | IntegrityError]:
    """The chunk of each frame, or what is wrong with it."""
    if sum(ref.plain_bytes for ref, _ in frames) <= INLINE_BYTES:
        return _verify(frames)
    return await trio.to_thread.run_sync(_verify, frames, limiter=limiter)


def _verify(frames: Sequence[tuple[ChunkRef, Frame]]) -> list[Chunk | IntegrityError]:
    decoder = FrameDecoder()
    results: list[Chunk | IntegrityError] = []
    for ref, frame in frames:
        # A copy of its own: a chunk that waits to be stored would else keep the whole answer in memory.
        try:
            results.append(decoder.decode(ref.digest, ref.codec, bytes(frame), ref.plain_bytes))
        except IntegrityError as e:
            is_right = decoder.is_chunk(ref.digest, ref.codec, frame)
            results.append(MisdescribedError(str(e)) if is_right else e)
    return results
