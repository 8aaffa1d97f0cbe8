"""Where each inode of a tree goes in the EROFS metadata region. Pure.

Used by ``cafs.index.writer`` only. The region is: superblock, inode area (inodes with their xattrs,
chunk maps and inline tails), then the blocks of large directories and long symlinks. The root comes
first (its nid has 16 bits); the inodes of a directory's entries lie together, in name order.
"""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterable, Iterator

from cafs.core.erofs import BLOCK_BYTES, FIRST_INODE_OFFSET, INODE_BYTES, SLOT_BITS
from cafs.index.chunk_map import chunk_bits, map_entries
from cafs.index.columns import Content
from cafs.index.dirblock import directory_bytes
from cafs.index.scratch import SETTLE_EVERY
from cafs.index.slots import SlotAllocator, round_up
from cafs.index.tree import LayerTree

_ROW_BYTES = 32


class IndexLayout:
    """The plan for one tree; columns by the tree's inode numbers, in the tree's scratch.

    Raises:
        UsageError: a sparse file whose map would be absurdly large.
    """

    def __init__(self, tree: LayerTree) -> None:
        scratch = tree.scratch
        rows = scratch.rows(_ROW_BYTES, len(tree.inodes))
        self.offset = rows.column("Q", 0)
        """Byte of the inode in the region; 0 when it has no name any more and is not written."""
        self.size = rows.column("Q", 8)
        """i_size."""
        self.nlink = rows.column("I", 16)
        self.parent = rows.column("I", 20)
        """Of directories."""
        self.block = rows.column("I", 24)
        """First block of directory data or a symlink target that is not wholly inline; 0: all of it is."""
        self.inline = rows.column("B", 28)
        """1: the last partial block follows the inode."""
        self.inode_count = 0
        """Inodes that are written."""
        self.metadata_bytes = 0
        self.has_chunk_maps = False
        self._tree = tree
        self._scratch = scratch
        self._slots = SlotAllocator(FIRST_INODE_OFFSET)
        self._starts = scratch.rows(4)
        self._inode_at = self._starts.column("I")
        """By slot: the inode that begins there, counted from 1."""
        self._with_blocks = array("I")
        self._walk()
        self._place_blocks()

    def in_order(self) -> Iterator[int]:
        """Inodes that are written, in the order of ``offset``."""
        for inode in self._inode_at[: self._slots.end >> SLOT_BITS]:
            if inode:
                yield inode - 1

    def with_blocks(self) -> Iterable[int]:
        """Inodes that have blocks, in the order of these."""
        return self._with_blocks

    def _walk(self) -> None:
        mode = self._tree.inodes.mode
        self._place_directory(self._tree.root)
        stack = array("I", [self._tree.root])
        while stack:
            directory = stack.pop()
            subdirectories = array("I")
            for _, inode in self._tree.sorted_children(directory):
                if stat.S_ISDIR(mode[inode]):
                    self.parent[inode] = directory
                    self.nlink[directory] += 1
                    self._place_directory(inode)
                    subdirectories.append(inode)
                    continue
                self.nlink[inode] += 1
                if self.nlink[inode] == 1:
                    self._place_other(inode)
            stack.extend(reversed(subdirectories))

    def _place_directory(self, inode: int) -> None:
        self._tree.sort_names(inode)
        children = self._tree.sorted_children(inode)
        self.nlink[inode] = 2
        self._place_with_tail(inode, directory_bytes(name for name, _ in with_dots(children, inode, inode)))

    def _place_other(self, inode: int) -> None:
        inodes = self._tree.inodes
        size = self.size[inode] = inodes.size[inode]
        if stat.S_ISLNK(inodes.mode[inode]):
            self._place_with_tail(inode, size)
        elif inodes.content[inode] == Content.INLINE:
            self.inline[inode] = 1
            self._place(inode, self._head_bytes(inode), size)
        elif inodes.content[inode] == Content.SPARSE:
            self.has_chunk_maps = True
            bits = chunk_bits(size, inodes.extents(inode))
            self._place(inode, self._head_bytes(inode) + 4 * map_entries(size, bits), 0)
        else:
            self._place(inode, self._head_bytes(inode), 0)

    def _place_with_tail(self, inode: int, size: int) -> None:
        """Full blocks go to the block area, the rest inline if it fits into a block with the inode."""
        self.size[inode] = size
        head, tail = self._head_bytes(inode), size % BLOCK_BYTES
        if not tail or head + tail > BLOCK_BYTES:
            tail = 0
        else:
            self.inline[inode] = 1
        if not tail or size > BLOCK_BYTES:
            self._with_blocks.append(inode)
        self._place(inode, head, tail)

    def _head_bytes(self, inode: int) -> int:
        return INODE_BYTES + len(self._tree.inodes.xattr_body(inode))

    def _place(self, inode: int, head: int, tail: int) -> None:
        offset = self.offset[inode] = self._slots.place(head, tail)
        slot = offset >> SLOT_BITS
        if slot >= self._starts.capacity:
            self._starts.grow(slot + 1)
            self._inode_at = self._starts.column("I")
        self._inode_at[slot] = inode + 1
        if not self.inode_count % SETTLE_EVERY:
            self._scratch.settle()
        self.inode_count += 1

    def _place_blocks(self) -> None:
        block = round_up(self._slots.end, BLOCK_BYTES) // BLOCK_BYTES
        for inode in self._with_blocks:
            self.block[inode] = block
            size = self.size[inode]
            block += size // BLOCK_BYTES if self.inline[inode] else -(-size // BLOCK_BYTES)
        self.metadata_bytes = block * BLOCK_BYTES


def with_dots(
    children: Iterator[tuple[bytes, int]], directory: int, parent: int
) -> Iterator[tuple[bytes, int]]:
    """A directory's sorted entries with its own two among them."""
    dots = [(b"..", parent), (b".", directory)]
    for child in children:
        while dots and dots[-1][0] < child[0]:
            yield dots.pop()
        yield child
    yield from reversed(dots)
