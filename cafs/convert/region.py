"""A layer's data region while it is being written: files laid out, cut into chunks, shared.

Owned by one layer's conversion, used by one thread. File bytes are read straight into the buffer that
is compressed from. Every file starts at a multiple of 4096; a file whose content was there before gets
the earlier range. Which chunks come out depends on the files and their order alone.
"""

from __future__ import annotations

from collections.abc import Callable

import blake3

from cafs.convert.compress import BUFFER_BYTES, Bounds, ChunkWriter
from cafs.convert.digest_table import DigestTable
from cafs.core.chunking import BLOCK_BYTES, ChunkingOptions, FileCutter, ends_pack
from cafs.index.scratch import Scratch

Fill = Callable[[memoryview], None]
"""Fills all of the view with the next bytes of a file, or raises."""


class DataRegion:
    """Where file contents go. ``used_bytes`` is always a multiple of 4096 between files."""

    def __init__(self, writer: ChunkWriter, options: ChunkingOptions, scratch: Scratch) -> None:
        self._writer = writer
        self._options = options
        self._cutter = FileCutter(options)
        self._files = DigestTable(scratch)
        self._buffer = writer.buffer()
        self._view = memoryview(self._buffer)
        self._base = 0
        """Offset in the region of the buffer's first byte."""
        self._filled = 0
        self._open = 0
        """In the buffer, where the chunk begins that is not cut yet."""
        self._bounds: Bounds = []

    @property
    def used_bytes(self) -> int:
        """Size of the region so far."""
        return self._base + self._filled

    def add_file(self, size: int, fill: Fill) -> int:
        """Lay out a file's content.

        Args:
            size: Of the content, at least 1.
            fill: Called with views that together are ``size`` long.

        Returns:
            The content's offset in the region.
        """
        if size < self._options.small_file_bytes:
            return self._add_small(size, fill)
        return self._add_large(size, fill, alignment=BLOCK_BYTES)

    def add_aligned(self, size: int, fill: Fill, alignment: int) -> int:
        """Lay out a run of a sparse file, cut on its own and never shared, at a multiple of ``alignment``."""
        return self._add_large(size, fill, alignment=alignment, shared=False)

    def add_chunks(self, chunks: list[tuple[int, int]]) -> int:
        """Append chunks that are known, as (number, plain bytes); the offset of the first."""
        self._close_chunk()
        self._flush()
        offset = self._base
        for chunk, plain_bytes in chunks:
            self._writer.add_known_row(chunk, plain_bytes)
            self._base += plain_bytes
        return offset

    def finish(self) -> None:
        """Cut and hand in what is left."""
        self._close_chunk()
        self._flush()
        self._writer.drain()

    def _add_small(self, size: int, fill: Fill) -> int:
        room = _padded(size)
        pack_bytes = self._filled - self._open + room
        if pack_bytes > self._options.pack_max_bytes:
            self._close_chunk()
        self._make_room(room)
        start, end = self._filled, self._filled + size
        content = self._view[start:end]
        fill(content)
        digest = blake3.blake3(content).digest()
        known = self._files.find(digest)
        if known is not None:
            return known
        offset = self._base + start
        self._files.add(digest, offset)
        self._pad(end, start + room)
        self._filled = start + room
        if ends_pack(digest, room, self._filled - self._open, self._options):
            self._close_chunk()
        return offset

    def _add_large(self, size: int, fill: Fill, *, alignment: int, shared: bool = True) -> int:
        self._align(alignment)
        self._close_chunk()
        offset, rows = self.used_bytes, self._writer.rows_handed_in + len(self._bounds)
        hasher = blake3.blake3()
        left = size
        while left:
            self._make_room(BLOCK_BYTES)
            part = self._view[self._filled : self._filled + min(left, BUFFER_BYTES - self._filled)]
            fill(part)
            if shared:
                hasher.update(part)
            left -= len(part)
            self._filled += len(part)
            if left:
                self._cut(final=False)
        self._make_room(BLOCK_BYTES)
        padded = self._filled + (-size) % BLOCK_BYTES
        self._pad(self._filled, padded)
        self._filled = padded
        self._cut(final=True)
        return self._share_large(offset, rows, hasher.digest()) if shared else offset

    def _share_large(self, offset: int, rows: int, digest: bytes) -> int:
        """Give an earlier file's range when the content was there before, and forget this one.

        Its chunks are the same ones, as both files were cut on their own: only rows are dropped.
        """
        known = self._files.find(digest)
        if known is None:
            self._files.add(digest, offset)
            return offset
        in_buffer = rows - self._writer.rows_handed_in
        if in_buffer >= 0:
            del self._bounds[in_buffer:]
            self._filled = self._bounds[-1][1] if self._bounds else 0
        else:
            self._writer.drop_rows(rows)
            self._bounds.clear()
            self._filled = 0
        self._open = self._filled
        self._base = offset - self._filled
        return known

    def _cut(self, *, final: bool) -> None:
        start = self._open
        for end in self._cutter.cuts(self._view[start : self._filled], final=final):
            self._bounds.append((self._open, start + end))
            self._open = start + end

    def _close_chunk(self) -> None:
        if self._filled > self._open:
            self._bounds.append((self._open, self._filled))
            self._open = self._filled

    def _make_room(self, size: int) -> None:
        if BUFFER_BYTES - self._filled < size:
            self._flush()

    def _flush(self) -> None:
        """Hand in the chunks that are cut; the open one moves to the start of the next buffer."""
        if not self._bounds:
            return
        full, view, rest = self._buffer, self._view, self._filled - self._open
        self._buffer = self._writer.buffer()
        self._view = memoryview(self._buffer)
        self._view[:rest] = view[self._open : self._filled]
        self._writer.submit(full, self._bounds)
        self._base += self._open
        self._filled, self._open, self._bounds = rest, 0, []

    def _align(self, alignment: int) -> None:
        """Zeros up to a multiple of ``alignment``, as part of the chunk before."""
        while gap := -self.used_bytes % alignment:
            self._make_room(BLOCK_BYTES)
            part = min(gap, BUFFER_BYTES - self._filled)
            self._pad(self._filled, self._filled + part)
            self._filled += part
            if self._filled - self._open >= self._options.max_bytes:
                self._close_chunk()

    def _pad(self, start: int, end: int) -> None:
        if end > start:
            self._view[start:end] = bytes(end - start)


def _padded(size: int) -> int:
    return size + (-size) % BLOCK_BYTES
