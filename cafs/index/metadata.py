"""Encodes the EROFS metadata region of a planned tree, front to back, in pieces.

Used by ``cafs.index.writer``. Pure: the caller writes the pieces. Nothing is kept of the region but
the piece at hand, so its size does not matter.
"""

from __future__ import annotations

import stat
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
    encode_xattrs,
    xattr_count,
)
from cafs.errors import UsageError
from cafs.index.chunk_map import chunk_bits, encode_chunk_map
from cafs.index.columns import Content
from cafs.index.dirblock import encode_directory
from cafs.index.layout import IndexLayout
from cafs.index.tree import LayerTree

_EXTENDED = 1
_NS = 1_000_000_000
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
        self._xattrs = [encode_xattrs(xattrs) for xattrs in tree.inodes.xattr_sets()]
        self._types = {mode: FILE_TYPES[stat.S_IFMT(mode)] for mode in set(tree.inodes.mode)}

    def pieces(self) -> Iterator[bytes]:
        """The region, front to back."""
        layout = self._layout
        root_nid = layout.offset[self._tree.root] >> SLOT_BITS
        virtual_bytes = layout.metadata_bytes + self._data_bytes
        first = encode_superblock(root_nid, len(layout.order), virtual_bytes, layout.has_chunk_maps)
        yield first
        position = len(first)
        for number, inode in enumerate(layout.order, 1):
            piece = self._encode_inode(inode, number)
            padding = layout.offset[inode] - position
            yield bytes(padding) + piece
            position += padding + len(piece)
        for inode, block in layout.blocks.items():
            # In placement order, so the blocks are ascending and without gaps.
            data = self._data_of(inode)
            if layout.inline[inode]:
                data = data[: len(data) // BLOCK_BYTES * BLOCK_BYTES]
            padding = block * BLOCK_BYTES - position
            yield bytes(padding) + data
            position += padding + len(data)
        yield bytes(layout.metadata_bytes - position)

    def _encode_inode(self, inode: int, number: int) -> bytes:
        inodes = self._inodes
        kind, address, tail = self._place_of(inode)
        xattrs = self._xattrs[inodes.xattrs[inode]]
        mtime_s, mtime_nsec = divmod(inodes.full_mtime_ns(inode), _NS)
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
            mtime_s,
            mtime_nsec,
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
            data = self._data_of(inode)
            return (
                Layout.FLAT_INLINE,
                layout.blocks.get(inode, 0),
                data[len(data) // BLOCK_BYTES * BLOCK_BYTES :],
            )
        if content == Content.SPARSE:
            size, extents = inodes.size[inode], inodes.extents[inodes.data[inode]]
            bits = chunk_bits(size, extents)
            return Layout.CHUNK_BASED, bits, encode_chunk_map(size, extents, bits, layout.metadata_bytes)
        if inode in layout.blocks:
            return Layout.FLAT_PLAIN, layout.blocks[inode], b""
        return Layout.FLAT_PLAIN, encode_device(inodes.rdev[inode]), b""

    def _data_of(self, inode: int) -> bytes:
        inodes = self._inodes
        if stat.S_ISDIR(inodes.mode[inode]):
            return self._directory_data(inode)
        start = inodes.data[inode]
        return bytes(inodes.pool[start : start + inodes.size[inode]])

    def _directory_data(self, directory: int) -> bytes:
        offset, mode, types = self._layout.offset, self._inodes.mode, self._types
        parent = self._layout.parent[directory]
        entries = [
            (name, offset[inode] >> SLOT_BITS, types[mode[inode]])
            for name, inode in self._tree.children(directory)
        ]
        kind = FILE_TYPES[stat.S_IFDIR]
        entries.append((b".", offset[directory] >> SLOT_BITS, kind))
        entries.append((b"..", offset[parent] >> SLOT_BITS, kind))
        entries.sort()
        return encode_directory(entries)
