"""Encodes the EROFS metadata region of a planned tree, front to back, in pieces.

Used by ``cafs.index.writer``. Pure: the caller writes the pieces. Nothing is kept of the region but
the piece at hand, so its size does not matter.
"""

from __future__ import annotations

import stat
from collections import deque
from collections.abc import Iterator

from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    FEATURE_COMPAT_MTIME,
    FEATURE_INCOMPAT_CHUNKED_FILE,
    FILE_TYPES,
    INODE,
    SLOT_BITS,
    SUPERBLOCK,
    SUPERBLOCK_MAGIC,
    SUPERBLOCK_OFFSET,
    Layout,
    encode_device,
    xattr_count,
)
from cafs.errors import UsageError
from cafs.index.chunk_map import chunk_bits, encode_chunk_map
from cafs.index.columns import Content
from cafs.index.dirblock import encode_directory
from cafs.index.layout import IndexLayout, with_dots
from cafs.index.scratch import SETTLE_EVERY
from cafs.index.tree import LayerTree

_EXTENDED = 1
_RESERVED = bytes(16)


def encode_superblock(root_nid: int, inode_count: int, virtual_bytes: int, chunk_maps: bool) -> bytes:
    """The first 1152 bytes of the image."""
    blocks = virtual_bytes // BLOCK_BYTES
    if blocks >= 1 << 32:
        raise UsageError(f"a layer of {virtual_bytes} bytes is over the limit of 16 TiB")
    feature = FEATURE_INCOMPAT_CHUNKED_FILE if chunk_maps else 0
    return bytes(SUPERBLOCK_OFFSET) + SUPERBLOCK.pack(
        SUPERBLOCK_MAGIC, 0, FEATURE_COMPAT_MTIME, BLOCK_BITS, 0, root_nid, inode_count,
        0, 0, blocks, 0, 0, bytes(32), feature, bytes(44),
    )  # fmt: skip


class MetadataEncoder:
    """Makes the pieces of one region; ``pieces`` joined are exactly ``metadata_bytes`` long."""

    def __init__(self, tree: LayerTree, layout: IndexLayout, data_bytes: int) -> None:
        self._tree = tree
        self._inodes = tree.inodes
        self._layout = layout
        self._data_bytes = data_bytes

    def pieces(self) -> Iterator[bytes]:
        """The region, front to back."""
        layout = self._layout
        root_nid = layout.offset[self._tree.root] >> SLOT_BITS
        virtual_bytes = layout.metadata_bytes + self._data_bytes
        first = encode_superblock(root_nid, layout.inode_count, virtual_bytes, layout.has_chunk_maps)
        yield first
        position = len(first)
        for number, inode in enumerate(layout.in_order(), 1):
            if not number % SETTLE_EVERY:
                self._tree.scratch.settle()
            piece = self._encode_inode(inode, number)
            padding = layout.offset[inode] - position
            yield bytes(padding) + piece
            position += padding + len(piece)
        for inode in layout.with_blocks():
            # In placement order, so the blocks are ascending and without gaps.
            padding = layout.block[inode] * BLOCK_BYTES - position
            yield bytes(padding)
            position += padding
            for data in self._data_of(inode):
                if layout.inline[inode] and len(data) < BLOCK_BYTES:
                    break
                yield data
                position += len(data)
        yield bytes(layout.metadata_bytes - position)

    def _encode_inode(self, inode: int, number: int) -> bytes:
        inodes = self._inodes
        kind, address, tail = self._place_of(inode)
        xattrs = inodes.xattr_body(inode)
        head = INODE.pack(
            _EXTENDED | kind << 1,
            xattr_count(len(xattrs)),
            inodes.mode[inode],
            0,
            self._layout.size[inode],
            address,
            number,
            inodes.uid[inode],
            inodes.gid[inode],
            inodes.mtime_s[inode],
            inodes.mtime_nsec[inode],
            self._layout.nlink[inode],
            _RESERVED,
        )
        return head + xattrs + tail

    def _place_of(self, inode: int) -> tuple[Layout, int, bytes]:
        """Layout, i_u, and what follows the inode."""
        inodes, layout = self._inodes, self._layout
        content = inodes.content[inode]
        if content == Content.EXTENT:
            return Layout.FLAT_PLAIN, (layout.metadata_bytes + inodes.data[inode]) // BLOCK_BYTES, b""
        if layout.inline[inode]:
            return Layout.FLAT_INLINE, layout.block[inode], deque(self._data_of(inode), maxlen=1)[0]
        if content == Content.SPARSE:
            size, extents = inodes.size[inode], inodes.extents(inode)
            bits = chunk_bits(size, extents)
            return Layout.CHUNK_BASED, bits, encode_chunk_map(size, extents, bits, layout.metadata_bytes)
        if layout.block[inode]:
            return Layout.FLAT_PLAIN, layout.block[inode], b""
        return Layout.FLAT_PLAIN, encode_device(inodes.rdev[inode]), b""

    def _data_of(self, inode: int) -> Iterator[bytes]:
        """Block by block; only the last may be shorter."""
        inodes = self._inodes
        if stat.S_ISDIR(inodes.mode[inode]):
            yield from self._directory_data(inode)
            return
        data = inodes.pool.read(inodes.data[inode], inodes.size[inode])
        for start in range(0, len(data), BLOCK_BYTES):
            yield data[start : start + BLOCK_BYTES]

    def _directory_data(self, directory: int) -> Iterator[bytes]:
        offset, mode = self._layout.offset, self._inodes.mode
        children = self._tree.sorted_children(directory)
        return encode_directory(
            (name, offset[inode] >> SLOT_BITS, FILE_TYPES[stat.S_IFMT(mode[inode])])
            for name, inode in with_dots(children, directory, self._layout.parent[directory])
        )
