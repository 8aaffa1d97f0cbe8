"""A layer made of real chunks in memory, and a source for its blob that does what a script says."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate

import trio
import zstandard

from cafs.core.chunk import Chunk, ChunkRef, Codec, chunk_digest, decode_frame
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef

METADATA = bytes(range(256)) * 32
"""8 KiB that stand for the metadata region."""


class MemoryTable:
    """A chunk table over lists."""

    def __init__(self, refs: Sequence[ChunkRef]) -> None:
        self.refs = list(refs)
        self.ends = list(accumulate((ref.plain_bytes for ref in refs), initial=len(METADATA)))[1:]

    def __len__(self) -> int:
        return len(self.refs)

    def row(self, number: int) -> ChunkRef:
        return self.refs[number]

    def start(self, number: int) -> int:
        return self.ends[number] - self.refs[number].plain_bytes

    def end(self, number: int) -> int:
        return self.ends[number]

    def find(self, virtual_offset: int) -> int:
        return bisect_right(self.ends, virtual_offset)


class MemoryLayer:
    """An open layer index as the reader sees it, its whole image, and its chunk blob.

    Chunks are half random, so that their frames are about half as long.
    """

    def __init__(self, chunk_bytes: Sequence[int], seed: int = 0) -> None:
        rng = random.Random(seed)
        plains = [rng.randbytes(size - size // 2) + bytes(size // 2) for size in chunk_bytes]
        refs, frames, offset = [], [], 0
        for plain in plains:
            frame, codec = zstandard.ZstdCompressor(level=1).compress(plain), Codec.ZSTD
            if len(frame) >= len(plain):
                frame, codec = plain, Codec.RAW
            refs.append(ChunkRef(chunk_digest(plain), len(plain), 0, offset, len(frame), codec))
            frames.append(frame)
            offset += len(frame)
        self.blob = b"".join(frames)
        self.frames = frames
        self.table = MemoryTable(refs)
        self.metadata = memoryview(METADATA)
        self.blobs = (BlobRef(sha256_digest(self.blob), len(self.blob)),)
        self.image = METADATA + b"".join(plains)
        self.virtual_bytes = len(self.image)
        self.diff_id = sha256_digest(self.image)

    def chunk(self, row: int) -> Chunk:
        """A verified chunk."""
        ref = self.table.refs[row]
        return decode_frame(ref.digest, ref.codec, self.frames[row], ref.plain_bytes)


Script = Callable[[int, bytes], Awaitable[bytes]]
"""Gets the number of the request and the right answer; answers, or raises, or waits."""


class ScriptedSource:
    """Answers range requests as its script says, and remembers them."""

    def __init__(self, blob: bytes, script: Script | None = None, name: str = "scripted") -> None:
        self._blob = blob
        self._script = script
        self.name = name
        self.requests: list[tuple[int, int]] = []
        self.active = 0
        self.most_active = 0

    async def read_range(self, blob: BlobRef, offset: int, length: int) -> bytes:
        number = len(self.requests)
        self.requests.append((offset, length))
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await trio.lowlevel.checkpoint()
            right = self._blob[offset : offset + length]
            return await self._script(number, right) if self._script else right
        finally:
            self.active -= 1


class MemoryStore:
    """A chunk store in a dict, which can be told to fail."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, Chunk] = {}
        self.fail: Exception | None = None
        self.fail_get: Exception | None = None
        self.gets = 0
        self.puts = 0

    def get(self, wanted: Sequence[tuple[bytes, int]]) -> list[bytes | None]:
        self.gets += 1
        if self.fail_get:
            raise self.fail_get
        return [bytes(self.chunks[digest].plain) if digest in self.chunks else None for digest, _ in wanted]

    def has(self, digests: Sequence[bytes]) -> list[bool]:
        return [digest in self.chunks for digest in digests]

    def release_pages(self) -> None:
        """It has no map."""

    def flush(self) -> None:
        pass

    def put(self, chunks: Sequence[Chunk]) -> None:
        self.puts += 1
        if self.fail:
            raise self.fail
        self.chunks.update((chunk.digest, chunk) for chunk in chunks)


def joined(pieces: Sequence[bytes | memoryview]) -> bytes:
    """The bytes of a reader's answer."""
    return b"".join(pieces)
