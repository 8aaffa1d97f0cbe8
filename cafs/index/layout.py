"""Where each inode of a tree goes in the EROFS metadata region. Pure.

Used by ``cafs.index.writer`` only. The region is: superblock, inode area (inodes with their xattrs,
chunk maps and inline tails), then the blocks of large directories and long symlinks. The root comes
first (its nid has 16 bits); the inodes of a directory's entries lie together, in name order.
"""

from __future__ import annotations

import heapq
import stat
from array import array

from cafs.core.erofs import BLOCK_BYTES, FIRST_INODE_OFFSET, INODE_BYTES, encode_xattrs
from cafs.index.chunk_map import chunk_bits, map_entries
from cafs.index.columns import Content
from cafs.index.dirblock import directory_bytes
from cafs.index.slots import SlotAllocator, round_up
from cafs.index.tree import LayerTree


class IndexLayout:
    """The plan for one tree; columns by the tree's inode numbers.

    Raises:
        UsageError: a sparse file whose map would be absurdly large.
    """

    def __init__(self, tree: LayerTree) -> None:
        total = len(tree.inodes)
        self.order = array("I")
        """Inodes that are written, in the order of ``offset``."""
        self.offset = array("Q", bytes(8 * total))
        """Byte of the inode in the region; 0 when it has no name any more and is not written."""
        self.nlink = array("I", bytes(4 * total))
        self.parent = array("I", bytes(4 * total))
        """Of directories."""
        self.size = array("Q", tree.inodes.size)
        """i_size."""
        self.blocks: dict[int, int] = {}
        """First block of directory data or a symlink target that is not wholly inline."""
        self.inline = bytearray(total)
        """1: the last partial block follows the inode."""
        self.metadata_bytes = 0
        self.has_chunk_maps = False
        self._tree = tree
        self._xattr_bytes = [len(encode_xattrs(xattrs)) for xattrs in tree.inodes.xattr_sets()]
        self._slots = SlotAllocator(FIRST_INODE_OFFSET)
        self._in_gaps = array("I")
        """Inodes that were put into gaps before others; ``order`` has only the others until the end."""
        self._walk()
        self._place_blocks()
        self._merge_order()

    def _walk(self) -> None:
        mode = self._tree.inodes.mode
        self._place_directory(self._tree.root)
        stack = [self._tree.root]
        while stack:
            directory = stack.pop()
            subdirectories = []
            for _, inode in self._tree.children(directory):
                if stat.S_ISDIR(mode[inode]):
                    self.parent[inode] = directory
                    self.nlink[directory] += 1
                    self._place_directory(inode)
                    subdirectories.append(inode)
                    continue
                self.nlink[inode] += 1
                if self.nlink[inode] == 1:
                    self._place_other(inode)
            stack += reversed(subdirectories)

    def _place_directory(self, inode: int) -> None:
        names = [name for name, _ in self._tree.children(inode)]
        self.nlink[inode] = 2
        self.size[inode] = directory_bytes(sorted([*names, b".", b".."]))
        self._place_with_tail(inode, self.size[inode])

    def _place_other(self, inode: int) -> None:
        inodes = self._tree.inodes
        size = inodes.size[inode]
        if stat.S_ISLNK(inodes.mode[inode]):
            self._place_with_tail(inode, size)
        elif inodes.content[inode] == Content.INLINE:
            self.inline[inode] = 1
            self._place(inode, self._head_bytes(inode), size)
        elif inodes.content[inode] == Content.SPARSE:
            self.has_chunk_maps = True
            bits = chunk_bits(size, inodes.extents[inodes.data[inode]])
            self._place(inode, self._head_bytes(inode) + 4 * map_entries(size, bits), 0)
        else:
            self._place(inode, self._head_bytes(inode), 0)

    def _place_with_tail(self, inode: int, size: int) -> None:
        """Full blocks go to the block area, the rest inline if it fits into a block with the inode."""
        head, tail = self._head_bytes(inode), size % BLOCK_BYTES
        if not tail or head + tail > BLOCK_BYTES:
            tail = 0
            self.blocks[inode] = -(-size // BLOCK_BYTES)
        else:
            self.inline[inode] = 1
            if size > BLOCK_BYTES:
                self.blocks[inode] = size // BLOCK_BYTES
        self._place(inode, head, tail)

    def _head_bytes(self, inode: int) -> int:
        return INODE_BYTES + self._xattr_bytes[self._tree.inodes.xattrs[inode]]

    def _place(self, inode: int, head: int, tail: int) -> None:
        end = self._slots.end
        self.offset[inode] = self._slots.place(head, tail)
        (self.order if self.offset[inode] >= end else self._in_gaps).append(inode)

    def _merge_order(self) -> None:
        """Most are in order already: sorting all of them would take 80 bytes for each of millions."""
        place = self.offset.__getitem__
        self.order = array("I", heapq.merge(self.order, sorted(self._in_gaps, key=place), key=place))

    def _place_blocks(self) -> None:
        block = round_up(self._slots.end, BLOCK_BYTES) // BLOCK_BYTES
        for inode, count in self.blocks.items():
            self.blocks[inode] = block
            block += count
        self.metadata_bytes = block * BLOCK_BYTES
