"""What worker threads do for the service: verify frames, and hand them to the store.

Plain synchronous functions, called through ``trio.to_thread`` once for a whole request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cafs.core.chunk import MAX_CHUNK_BYTES, Chunk, ChunkRef, Codec, FrameDecoder
from cafs.core.source import BlobRef
from cafs.errors import IntegrityError

MAX_FRAME_BYTES = MAX_CHUNK_BYTES + (64 << 10)
"""zstd's worst case for the largest chunk, with room to spare; writers store such chunks raw anyway."""


class FrameStore(Protocol):
    """What the service needs of the chunk store. Called in worker threads, several at once."""

    def get(self, wanted: Sequence[tuple[bytes, int]], /) -> Sequence[bytes | None]:
        """The verified plain bytes of chunks by (digest, size); None for those it lacks.

        Raises:
            StorageError: the store cannot be read.
        """
        ...

    def has(self, digests: Sequence[bytes], /) -> Sequence[bool]:
        """Which of these it holds."""
        ...

    def release_pages(self) -> None:
        """Let go of the resident pages of its map, if it has one."""
        ...

    def flush(self) -> None:
        """Write down what it knows of reads; called now and then, may wait for the disk.

        Raises:
            StorageError: it cannot.
        """
        ...

    def put(self, chunks: Sequence[Chunk], /) -> object:
        """Keep verified chunks.

        Raises:
            StorageError: it cannot (disk full, locked).
        """
        ...


def check_place(ref: ChunkRef, blob: BlobRef) -> None:
    """Refuse a table row that points outside its blob, before anything is asked or allocated for it.

    Raises:
        IntegrityError: it does.
    """
    if ref.frame_bytes > MAX_FRAME_BYTES or ref.offset + ref.frame_bytes > blob.size:
        raise IntegrityError(
            f"chunk {ref.digest.hex()[:16]} claims {ref.frame_bytes} bytes at {ref.offset}"
            f" of a blob of {blob.size}"
        )


def verify_frames(body: bytes, base: int, refs: Sequence[ChunkRef]) -> list[Chunk | IntegrityError]:
    """Cut the answer to a range request that began at ``base`` into verified chunks.

    A wrong frame does not spoil its neighbours: its error stands in its place.
    """
    decoder, view = FrameDecoder(), memoryview(body)
    chunks: list[Chunk | IntegrityError] = []
    for ref in refs:
        begin = ref.offset - base
        frame: bytes | memoryview = view[begin : begin + ref.frame_bytes]
        if ref.codec is Codec.RAW:
            frame = bytes(frame)  # else a small chunk in memory would hold the whole answer there
        try:
            chunks.append(decoder.decode(ref.digest, ref.codec, frame, ref.plain_bytes))
        except IntegrityError as e:
            chunks.append(e)
    return chunks
