"""Reading the virtual image of one layer.

A ``LayerReader`` is made by ``ChunkService.add_layer`` and used by the FUSE drivers. It answers from the
layer index's own metadata region and from plain chunks in memory without waiting (``try_read``), or waits
for the service to bring the missing chunks (``read``). It never opens a file or a connection itself.

Used from the service's trio thread only. Pieces that it returns are read-only buffers that stay valid
after any later call; they are written with ``writev``, never joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cafs.core.chunk import ChunkRef
from cafs.core.elf import MAGIC
from cafs.core.erofs import BLOCK_BYTES
from cafs.core.readahead import ReadaheadDetector
from cafs.core.readplan import RowTable, Slice, plan_slices
from cafs.core.source import BlobRef, BlobSource
from cafs.errors import IntegrityError
from cafs.fetch.flights import Origin
from cafs.fetch.plain_cache import Plain

if TYPE_CHECKING:
    from cafs.fetch.service import ChunkService


REFS_KEPT = 2048
"""Rows kept decoded for one layer, 400 KB; a read-ahead window has hundreds."""


class LayerFile(Protocol):
    """What reading needs of an open layer index (``cafs.index.layer_index.LayerIndex``)."""

    @property
    def metadata(self) -> memoryview:
        """The first bytes of the virtual image."""
        ...

    @property
    def table(self) -> RowTable:
        """The chunks of what follows."""
        ...

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """The blob table."""
        ...

    @property
    def virtual_bytes(self) -> int:
        """Size of the virtual image."""
        ...


class LayerReader:
    """One layer's virtual image, byte addressed."""

    def __init__(
        self,
        service: ChunkService,
        index: LayerFile,
        sources: Sequence[BlobSource],
        *,
        name: str,
        about: str = "",
        readahead_bytes: int,
    ) -> None:
        self.name = name
        """For messages and the journal: the layer's diffID."""
        self.about = about or f"layer={name}"
        """For log lines."""
        self.sources = tuple(sources)
        self._blobs = index.blobs
        self._origins: dict[int, Origin] = {}
        self._refs: dict[int, ChunkRef] = {}
        self.table = index.table
        self.virtual_bytes = index.virtual_bytes
        self._readahead = ReadaheadDetector(readahead_bytes)
        self.local = bytearray(len(index.table))
        """1 for rows that were fetched or found in the store once: prefetching need not look again."""
        self.ahead = bytearray(len(index.table))
        """Not 0 for rows that were fetched before a reader asked (kept by ``AheadAccount``)."""
        self.touched = bytearray(len(index.table))
        """1 for rows that a reader has read."""
        self.touched_bytes = 0
        """Plain bytes of those."""
        self.touched_frame_bytes = 0
        """Compressed bytes of the chunks that readers have read at all."""
        self.data_bytes = index.virtual_bytes - len(index.metadata)
        self.blob_bytes = sum(blob.size for blob in index.blobs)
        """Of all blobs that its chunks lie in."""
        self._metadata = index.metadata
        self._metadata_bytes = len(index.metadata)
        self._service = service
        self._counters = service.counters

    def try_read(self, offset: int, size: int) -> list[Plain] | None:
        """What ``read`` would return, if all of it is in memory; None if something is missing."""
        pieces, end = self._metadata_pieces(offset, size)
        slices = self._slices(offset, end)
        for part in slices:
            plain = self._service.cached(self.ref(part.row).digest)
            if plain is None:
                return None
            pieces.append(memoryview(plain)[part.begin : part.end])
        self._note_read(slices, offset, end)
        self._note_program(offset, pieces)
        return pieces

    async def read(self, offset: int, size: int, deadline: float | None = None) -> list[Plain]:
        """The bytes from ``offset``: ``size`` of them, fewer only at the end of the image.

        Args:
            offset: In the virtual image.
            size: Bytes wanted.
            deadline: ``trio.current_time()`` at which to give up; None: the service's usual.

        Raises:
            DeadlineError: the bytes did not come in time.
            RemoteError, NotFoundError: every source failed for good.
            IntegrityError: every source answered with wrong bytes.
        """
        pieces, end = self._metadata_pieces(offset, size)
        slices = self._slices(offset, end)
        if not slices:
            return pieces
        self._note_read(slices, offset, end)
        chunks = await self._service.chunks(self, [part.row for part in slices], deadline)
        pieces.extend(
            memoryview(plain)[part.begin : part.end] for part, plain in zip(slices, chunks, strict=True)
        )
        self._note_program(offset, pieces)
        return pieces

    def ref(self, row: int) -> ChunkRef:
        """The chunk of a row. Asked for several times while a row is being read, hence remembered."""
        ref = self._refs.get(row)
        if ref is None:
            if len(self._refs) >= REFS_KEPT:
                self._refs.clear()
            ref = self._refs[row] = self.table.row(row)
        return ref

    def add_source(self, source: BlobSource) -> None:
        """Another repository that has the same blobs: asked when those before it fail."""
        way = self._service.way_to(source)
        if way not in self.sources:
            self.sources = (*self.sources, way)
            self._origins.clear()  # they name all sources; flights under way keep theirs

    def origin(self, blob: int) -> Origin:
        """Where the frames of that row of the blob table come from.

        Raises:
            IntegrityError: the blob table has no such row.
        """
        origin = self._origins.get(blob)
        if origin is None:
            if blob >= len(self._blobs):
                raise IntegrityError(
                    f"layer {self.name}: the chunk table names blob {blob}, which is not there"
                )
            origin = self._origins[blob] = Origin(self.name, self._blobs[blob], self.sources)
        return origin

    def rows_between(self, offset: int, end: int) -> range:
        """The rows whose chunks hold any of these bytes of the virtual image."""
        begin, end = max(offset, self._metadata_bytes), min(end, self.virtual_bytes)
        return range(self.table.find(begin), self.table.find(end - 1) + 1) if begin < end else range(0)

    def _metadata_pieces(self, offset: int, size: int) -> tuple[list[Plain], int]:
        end = min(offset + size, self.virtual_bytes)
        if 0 <= offset < self._metadata_bytes:
            return [self._metadata[offset : min(end, self._metadata_bytes)]], end
        return [], end

    def _slices(self, offset: int, end: int) -> list[Slice]:
        begin = max(offset, self._metadata_bytes)
        return plan_slices(self.table, begin, end - begin)

    def _note_program(self, offset: int, pieces: Sequence[Plain]) -> None:
        """Files begin at blocks, and are read from their beginning."""
        if not offset % BLOCK_BYTES and pieces and pieces[0][:4] == MAGIC:
            self._service.programs.note_begun(self, offset)

    def _note_read(self, slices: Sequence[Slice], offset: int, end: int) -> None:
        """Once for each read that is answered here, or will be."""
        self._counters.note_read(end - offset, len(slices))
        if slices:
            if self.touched.find(0, slices[0].row, slices[-1].row + 1) >= 0:
                self._note_first_touch(slices)
            window = self._readahead.note_read(max(offset, self._metadata_bytes), end)
            if window is not None and window[0] < self.virtual_bytes:
                self._service.prefetcher.note_window(self, *window)

    def _note_first_touch(self, slices: Sequence[Slice]) -> None:
        for part in slices:
            if not self.touched[part.row]:
                self.touched[part.row] = 1
                ref = self.ref(part.row)
                self.touched_frame_bytes += ref.frame_bytes
                self.touched_bytes += ref.plain_bytes
                self._service.note_touched(self, part.row, ref)
