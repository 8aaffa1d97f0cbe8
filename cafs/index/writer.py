"""Writes a layer index file. The format is in ``docs/formats.md``.

Used by the converter, which streams the layer's data into chunk blobs first: only then are the
layer's tree, chunk rows and sizes known. Deterministic: the same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from cafs.core.chunk import MAX_CHUNK_BYTES, ChunkRef
from cafs.core.chunk_table import ROW_BYTES, encode_row
from cafs.core.erofs import BLOCK_BYTES
from cafs.core.source import BlobRef
from cafs.index.header import (
    HEADER_BYTES,
    ChunkingOptions,
    IndexHeader,
    encode_blob_row,
    encode_header,
)
from cafs.index.layout import IndexLayout
from cafs.index.metadata import MetadataEncoder
from cafs.index.tree import LayerTree

_BUFFER_BYTES = 1 << 20


def write_index(
    file: BinaryIO,
    tree: LayerTree,
    rows: Iterable[tuple[int, ChunkRef]],
    blobs: Sequence[BlobRef],
    *,
    data_bytes: int,
    diff_id: bytes,
    options: ChunkingOptions,
    parent_chain_id: bytes | None = None,
) -> IndexHeader:
    """Write the whole index file.

    Args:
        file: Empty, seekable, positioned at its start.
        tree: The layer's tree; data offsets in it are relative to the data region.
        rows: (end of the chunk's range *in the data region*, chunk), in order, without gaps.
        blobs: The blob table that the chunks' ``blob`` numbers mean.
        data_bytes: Size of the data region, a multiple of 4096.
        diff_id: sha256 of the uncompressed layer, 32 raw bytes.
        options: What the layer was chunked with.
        parent_chain_id: chainID (raw sha256) of the layers below, if something was taken from them.

    Raises:
        UsageError: the tree holds what the format cannot (see ``LayerTree``, ``encode_superblock``).
        ValueError: the rows do not cover the data region; a mistake of the caller.
    """
    if data_bytes % BLOCK_BYTES:
        raise ValueError(f"a data region of {data_bytes} bytes is not whole blocks")
    tree.drop_idle_whiteouts()
    layout = IndexLayout(tree)
    file.write(bytes(HEADER_BYTES))
    _write_buffered(file, MetadataEncoder(tree, layout, data_bytes).pieces())
    _write_buffered(file, map(encode_blob_row, blobs))
    table_bytes = _write_buffered(file, _encode_rows(rows, layout.metadata_bytes, data_bytes, len(blobs)))
    header = IndexHeader(
        metadata_bytes=layout.metadata_bytes,
        data_bytes=data_bytes,
        inode_count=layout.inode_count,
        blob_rows=len(blobs),
        chunk_rows=table_bytes // ROW_BYTES,
        diff_id=diff_id,
        options=options,
        parent_chain_id=parent_chain_id,
        hides=tree.hides,
    )
    file.seek(0)
    file.write(encode_header(header))
    file.seek(header.file_bytes)
    return header


def _encode_rows(
    rows: Iterable[tuple[int, ChunkRef]], metadata_bytes: int, data_bytes: int, blob_count: int
) -> Iterator[bytes]:
    position = 0
    for end, chunk in rows:
        if end - position != chunk.plain_bytes or not 0 < chunk.plain_bytes <= MAX_CHUNK_BYTES:
            raise ValueError(f"chunk of {chunk.plain_bytes} bytes for the range {position}-{end}")
        if chunk.blob >= blob_count:
            raise ValueError(f"chunk in blob {chunk.blob} of {blob_count}")
        yield encode_row(metadata_bytes + end, chunk)
        position = end
    if position != data_bytes:
        raise ValueError(f"chunks end at {position}, the data region at {data_bytes}")


def _write_buffered(file: BinaryIO, pieces: Iterable[bytes]) -> int:
    buffer, written = bytearray(), 0
    for piece in pieces:
        buffer += piece
        if len(buffer) >= _BUFFER_BYTES:
            written += file.write(buffer)
            buffer.clear()
    return written + file.write(buffer)
