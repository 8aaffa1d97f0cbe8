"""Header and blob table of a layer index file; field by field in ``docs/formats.md``.

Pure encoding and parsing, used by the writer and by ``LayerIndex``.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cafs.core.chunk_table import ROW_BYTES
from cafs.core.digest import Digest
from cafs.core.erofs import BLOCK_BYTES
from cafs.core.source import BlobRef
from cafs.core.writer_version import WRITER_VERSION
from cafs.errors import IntegrityError, UsageError

MAGIC = b"CAFSIDX1"
HEADER_BYTES = 4096
FLAG_FOLLOWS_PARENT = 1
FLAG_HIDES = 2
_FLAGS = FLAG_FOLLOWS_PARENT | FLAG_HIDES
_HEADER = struct.Struct("<8sIIQQQQQ32s32sIIIII")
_BLOB_ROW = struct.Struct("<32sQ8s")
BLOB_ROW_BYTES = _BLOB_ROW.size
_ZERO_ID = bytes(32)
_MAX_FILE_BYTES = 1 << 62
"""Keeps every sum of two fields far from 64-bit overflow."""


class ChunkingOptions(NamedTuple):
    """The options a layer was converted with: part of what its bytes depend on."""

    min_chunk_bytes: int
    avg_chunk_bytes: int
    max_chunk_bytes: int
    zstd_level: int


class IndexHeader(NamedTuple):
    """The header's fields."""

    metadata_bytes: int
    data_bytes: int
    inode_count: int
    blob_rows: int
    chunk_rows: int
    diff_id: bytes
    """sha256 of the uncompressed layer, 32 raw bytes."""
    options: ChunkingOptions
    parent_chain_id: bytes | None = None
    """sha256 chainID (raw) of the layers below, when something was taken from them."""
    writer_version: int = WRITER_VERSION
    hides: bool = True
    """Whether it holds whiteouts or opaque directories, which only a merge with other layers may see."""

    @property
    def virtual_bytes(self) -> int:
        """Size of the virtual image."""
        return self.metadata_bytes + self.data_bytes

    @property
    def blob_table_offset(self) -> int:
        """In the file."""
        return HEADER_BYTES + self.metadata_bytes

    @property
    def chunk_table_offset(self) -> int:
        """In the file."""
        return self.blob_table_offset + self.blob_rows * BLOB_ROW_BYTES

    @property
    def file_bytes(self) -> int:
        """Exact size of the index file."""
        return self.chunk_table_offset + self.chunk_rows * ROW_BYTES


def encode_header(header: IndexHeader) -> bytes:
    """The 4096 header bytes."""
    options = header.options
    packed = _HEADER.pack(
        MAGIC,
        HEADER_BYTES,
        (header.parent_chain_id is not None) * FLAG_FOLLOWS_PARENT | header.hides * FLAG_HIDES,
        header.metadata_bytes,
        header.data_bytes,
        header.inode_count,
        header.blob_rows,
        header.chunk_rows,
        header.diff_id,
        header.parent_chain_id or _ZERO_ID,
        options.min_chunk_bytes,
        options.avg_chunk_bytes,
        options.max_chunk_bytes,
        options.zstd_level,
        header.writer_version,
    )
    return packed.ljust(HEADER_BYTES, b"\0")


def parse_header(raw: bytes, file_bytes: int) -> IndexHeader:
    """Parse a header and compare what it declares with the file's real size.

    Raises:
        IntegrityError: not a layer index, or one whose parts do not fit the file.
    """
    if len(raw) < HEADER_BYTES or raw[: len(MAGIC)] != MAGIC:
        raise IntegrityError("not a CAFS layer index (no CAFSIDX1 header)")
    (_, header_bytes, flags, metadata, data, inodes, blobs, chunks, diff_id, parent, *numbers) = (
        _HEADER.unpack_from(raw)
    )
    if header_bytes != HEADER_BYTES or flags & ~_FLAGS or any(raw[_HEADER.size : HEADER_BYTES]):
        raise IntegrityError(
            f"layer index header has unknown parts (header_bytes {header_bytes}, flags {flags:#x})"
        )
    if bool(flags & FLAG_FOLLOWS_PARENT) != (parent != _ZERO_ID):
        raise IntegrityError("layer index header: parent chainID does not agree with its flag")
    small, avg, large, level, version = numbers
    header = IndexHeader(
        metadata_bytes=metadata,
        data_bytes=data,
        inode_count=inodes,
        blob_rows=blobs,
        chunk_rows=chunks,
        diff_id=diff_id,
        options=ChunkingOptions(small, avg, large, level),
        parent_chain_id=parent if flags & FLAG_FOLLOWS_PARENT else None,
        writer_version=version,
        hides=bool(flags & FLAG_HIDES),
    )
    _check_sizes(header, file_bytes)
    return header


def _check_sizes(header: IndexHeader, file_bytes: int) -> None:
    if header.metadata_bytes % BLOCK_BYTES or header.data_bytes % BLOCK_BYTES or not header.metadata_bytes:
        raise IntegrityError(
            f"layer index header: metadata of {header.metadata_bytes} and data of {header.data_bytes} bytes "
            f"are not whole blocks of {BLOCK_BYTES}"
        )
    if header.virtual_bytes > _MAX_FILE_BYTES or header.virtual_bytes // BLOCK_BYTES >= 1 << 32:
        raise IntegrityError(
            f"layer index header: a virtual image of {header.virtual_bytes} bytes is too large"
        )
    if header.file_bytes != file_bytes:
        raise IntegrityError(
            f"layer index has {file_bytes} bytes, not the {header.file_bytes} of its header: it is damaged"
        )
    if not 0 < header.inode_count <= header.metadata_bytes // 32 or header.chunk_rows > header.data_bytes:
        raise IntegrityError(
            f"layer index header: {header.inode_count} inodes and {header.chunk_rows} chunks cannot be"
        )


def encode_blob_row(blob: BlobRef) -> bytes:
    """One row of the blob table."""
    algorithm, _, digest = blob.digest.partition(":")
    if algorithm != "sha256":
        raise UsageError(f"chunk blob {blob.digest} must be named by sha256")
    return _BLOB_ROW.pack(bytes.fromhex(digest), blob.size, bytes(8))


def parse_blob_table(rows: bytes | memoryview) -> tuple[BlobRef, ...]:
    """All rows of the blob table.

    Raises:
        IntegrityError: a row's reserved bytes are not zero, or a size is absurd.
    """
    blobs = []
    for number, (digest, size, reserved) in enumerate(_BLOB_ROW.iter_unpack(rows)):
        if reserved != bytes(8) or size > _MAX_FILE_BYTES:
            raise IntegrityError(f"blob table row {number} is damaged (size {size})")
        blobs.append(BlobRef(Digest("sha256:" + digest.hex()), size))
    return tuple(blobs)
