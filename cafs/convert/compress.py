"""Chunks into frames on worker threads, a batch at a time, and into the chunk blob in order.

Owned by one layer's conversion. A hop to a thread costs as much as hashing several chunks, so whole
buffers go; blake3 and zstd release the GIL. Frames are written in the order the batches were handed
in, and a chunk is stored by the first that has it, so the blob does not depend on the number of threads
or on their speed. At most a few batches are under way: memory does not grow with the layer.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from typing import BinaryIO, cast

import blake3
import zstandard

from cafs.convert.known_chunks import KnownChunks
from cafs.core.chunk import ChunkRef, Codec
from cafs.core.chunking import ChunkingOptions, compression_parameters
from cafs.core.digest import Digest
from cafs.core.source import BlobRef
from cafs.index.scratch import SETTLE_EVERY, Scratch

BUFFER_BYTES = 4 << 20
_ROW = struct.Struct("=II")
"""plain bytes, number of the chunk"""
_BATCHES_UNDER_WAY = 5

Bounds = list[tuple[int, int]]
Frame = memoryview | zstandard.BufferSegment
Frames = list[tuple[bytes, Codec, Frame | None]]
"""(digest, codec, frame) of each chunk; no frame when the chunk was known already."""


def compress_batch(
    buffer: bytearray, bounds: Bounds, known: KnownChunks, parameters: zstandard.ZstdCompressionParameters
) -> Frames:
    """Hash and compress chunks of ``buffer``. Runs on a worker thread.

    One call into zstd for all of them: a context of its own for each chunk costs a seventh, and taking
    the GIL after each leaves cores idle. A frame depends on its chunk alone all the same: double-fast
    keeps nothing that outlives a frame (``tests/component/test_compress.py`` holds it to that).
    """
    view = memoryview(buffer)
    plains = [view[start:end] for start, end in bounds]
    digests = [blake3.blake3(plain).digest() for plain in plains]
    numbers = [n for n, digest in enumerate(digests) if known.find(digest) is None]
    frames: Frames = [(digest, Codec.RAW, None) for digest in digests]
    if numbers:
        compressor = zstandard.ZstdCompressor(compression_params=parameters)
        made = compressor.multi_compress_to_buffer([plains[n] for n in numbers], threads=1)
        for place, n in enumerate(numbers):
            frame, plain = made[place], plains[n]
            small = len(frame) < len(plain)
            frames[n] = (digests[n], Codec.ZSTD, frame) if small else (digests[n], Codec.RAW, plain)
    return frames


class ChunkWriter:
    """Takes buffers with cut chunks, keeps the rows of the chunk table, writes the chunk blob.

    Used by one thread. ``file`` belongs to the caller, who removes it after a failure.
    """

    def __init__(
        self,
        file: BinaryIO,
        executor: Executor,
        known: KnownChunks,
        options: ChunkingOptions,
        scratch: Scratch,
    ) -> None:
        self._file = file
        self._executor = executor
        self._known = known
        self._parameters = compression_parameters(options)
        self._hash = hashlib.sha256()
        self._blob_bytes = 0
        self._under_way: deque[tuple[Future[Frames], bytearray, Bounds] | int] = deque()
        self._batches = 0
        self._spare: list[bytearray] = []
        self._scratch = scratch
        self._rows = scratch.rows(_ROW.size)
        self._row_count = 0
        self._rows_handed_in = 0

    @property
    def rows_handed_in(self) -> int:
        """How many chunks were given to ``submit`` and not dropped again."""
        return self._rows_handed_in

    def buffer(self) -> bytearray:
        """A buffer to fill; its old content is still in it."""
        return self._spare.pop() if self._spare else bytearray(BUFFER_BYTES)

    def submit(self, buffer: bytearray, bounds: Bounds) -> None:
        """Hand a buffer over, with its chunks in order. Waits while too many are under way."""
        while self._batches >= _BATCHES_UNDER_WAY:
            self._complete_one()
        future = self._executor.submit(compress_batch, buffer, bounds, self._known, self._parameters)
        self._under_way.append((future, buffer, bounds))
        self._batches += 1
        self._rows_handed_in += len(bounds)

    def drop_rows(self, keep: int) -> None:
        """Forget all rows from number ``keep`` on.

        Only for a run of chunks that were all handed in before: their frames are in the blob once,
        and stay.
        """
        self._rows_handed_in = keep
        self._under_way.append(keep)

    def add_known_row(self, chunk: int, plain_bytes: int) -> None:
        """Append a row for a chunk of ``known`` by its number."""
        self.drain()
        self._add_row(plain_bytes, chunk)
        self._rows_handed_in += 1

    def drain(self) -> None:
        """Wait for everything handed in."""
        while self._under_way:
            self._complete_one()

    def finish(self) -> BlobRef | None:
        """The chunk blob's digest and size, after ``drain``; None when it has no byte."""
        self.drain()
        self._file.flush()
        if not self._blob_bytes:
            return None
        return BlobRef(Digest("sha256:" + self._hash.hexdigest()), self._blob_bytes)

    def close(self) -> None:
        """Let go of what is under way, after a failure: nothing more is started or written."""
        for item in self._under_way:
            if not isinstance(item, int):
                item[0].cancel()
        self._under_way.clear()

    def rows(self, blob_number: Callable[[int], int]) -> Iterator[tuple[int, ChunkRef]]:
        """(end in the data region, chunk) of every row, with blob numbers passed through."""
        end = 0
        for plain_bytes, chunk in self._each_row():
            end += plain_bytes
            yield end, self._known.ref(chunk, plain_bytes, blob_number)

    def blobs_used(self) -> set[int]:
        """Numbers of the blobs that the rows refer to."""
        return {self._known.blob_of(chunk) for _, chunk in self._each_row()}

    def _add_row(self, plain_bytes: int, chunk: int) -> None:
        if self._row_count == self._rows.capacity:
            self._rows.grow()
        _ROW.pack_into(self._rows.data, self._row_count * _ROW.size, plain_bytes, chunk)
        self._row_count += 1

    def _each_row(self) -> Iterator[tuple[int, int]]:
        for row in range(self._row_count):
            if not row % SETTLE_EVERY:
                self._scratch.settle()
            yield _ROW.unpack_from(self._rows.data, row * _ROW.size)

    def _complete_one(self) -> None:
        item = self._under_way.popleft()
        if isinstance(item, int):
            self._row_count = item
            return
        future, buffer, bounds = item
        self._batches -= 1
        new: list[Frame] = []
        for (start, end), (digest, codec, frame) in zip(bounds, future.result(), strict=True):
            chunk = self._known.find(digest)
            if chunk is None:
                assert frame is not None, "a chunk that was known cannot be forgotten"
                chunk = self._known.add_own(digest, self._blob_bytes, len(frame), codec)
                new.append(frame)
                self._blob_bytes += len(frame)
            self._add_row(end - start, chunk)
        together = b"".join(cast(list[bytes], new))  # the stubs do not say that a BufferSegment is a buffer
        self._hash.update(together)
        self._file.write(together)
        self._spare.append(buffer)
