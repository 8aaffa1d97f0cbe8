"""The head of a merged metadata region: superblock and the directories that merging makes. Pure.

Used by ``cafs.index.merge_layers``. The layers' own regions follow it, unchanged but for the numbers in them
(``cafs.index.moved_region``). The root comes first, as its nid has 16 bits.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence

from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    FILE_TYPES,
    FIRST_INODE_OFFSET,
    INODE,
    INODE_BYTES,
    SLOT_BITS,
    Layout,
    encode_xattrs,
    xattr_count,
)
from cafs.index.dirblock import Entry, directory_bytes, encode_directory
from cafs.index.merge import LayerNid, MergedTree, visible_xattrs
from cafs.index.merge_plan import NewDirectory
from cafs.index.metadata import encode_superblock
from cafs.index.slots import SlotAllocator, round_up

_EXTENDED = 1
_DIRECTORY = FILE_TYPES[stat.S_IFDIR]
_NS = 1_000_000_000
_SHARED_LINKS = 1
"""Link count of a directory of several layers, as overlayfs says: whoever counts subdirectories by it must
not."""

NidOf = Callable[[LayerNid], int]


class MergedHead:
    """The plan of a head: which nid each new directory has, and how long all is."""

    def __init__(self, tree: MergedTree, directories: Sequence[NewDirectory]) -> None:
        """
        Args:
            tree: The image.
            directories: What to make, the root first.
        """
        self._tree = tree
        self._directories = directories
        self.nids: dict[LayerNid, int] = {}
        """Of the layers' directories that are replaced: what replaces them."""
        self._places: list[tuple[int, int]] = []
        """Offset of the inode; first block of what is not behind it, 0 for none."""
        self._inodes = [tree.inode(directory.stack) for directory in directories]
        self._xattrs = [encode_xattrs(visible_xattrs(inode)) for inode in self._inodes]
        self._place()

    def encode(self, virtual_bytes: int, inode_count: int, chunk_maps: bool, nid_of: NidOf) -> bytes:
        """The bytes, ``head_bytes`` of them.

        Args:
            virtual_bytes: Size of the whole merged image.
            inode_count: Of all layers.
            chunk_maps: Whether any layer has chunk-based files.
            nid_of: Where the inodes of the layers are in the merged image.
        """
        region = bytearray(self.head_bytes)
        root_nid = self._places[0][0] >> SLOT_BITS
        first = encode_superblock(root_nid, inode_count + len(self._directories), virtual_bytes, chunk_maps)
        region[: len(first)] = first
        for number, directory in enumerate(self._directories):
            self._encode_one(region, number, self._entries(number, directory, nid_of))
        return bytes(region)

    def _place(self) -> None:
        slots = SlotAllocator(FIRST_INODE_OFFSET)
        heads, sizes = [], []
        for number, directory in enumerate(self._directories):
            head = INODE_BYTES + len(self._xattrs[number])
            size = directory_bytes(sorted([*(name for name, _ in directory.children), b".", b".."]))
            tail = _inline_bytes(head, size)
            heads.append(slots.place(head, tail))
            sizes.append(-(-(size - tail) // BLOCK_BYTES))
            self.nids.update(dict.fromkeys(directory.stack, heads[-1] >> SLOT_BITS))
        block = round_up(slots.end, BLOCK_BYTES) >> BLOCK_BITS
        for offset, blocks in zip(heads, sizes, strict=True):
            self._places.append((offset, block if blocks else 0))
            block += blocks
        self.head_bytes = block << BLOCK_BITS

    def _entries(self, number: int, directory: NewDirectory, nid_of: NidOf) -> list[Entry]:
        entries = [
            (name, nid_of(top), FILE_TYPES[stat.S_IFMT(self._tree.reader(top.layer).mode(top.nid))])
            for name, top in directory.children
        ]
        parent = directory.parent if number else directory.stack[0]
        entries += [(b".", nid_of(directory.stack[0]), _DIRECTORY), (b"..", nid_of(parent), _DIRECTORY)]
        return sorted(entries)

    def _encode_one(self, region: bytearray, number: int, entries: list[Entry]) -> None:
        data, inode, xattrs = b"".join(encode_directory(entries)), self._inodes[number], self._xattrs[number]
        offset, block = self._places[number]
        tail = _inline_bytes(INODE_BYTES + len(xattrs), len(data))
        outside = len(data) - tail
        is_shared = number == 0 or len(self._directories[number].stack) > 1
        mtime_s, mtime_nsec = divmod(inode.meta.mtime_ns, _NS)
        head = INODE.pack(
            _EXTENDED | (Layout.FLAT_INLINE if tail else Layout.FLAT_PLAIN) << 1,
            xattr_count(len(xattrs)),
            inode.meta.mode,
            0,
            len(data),
            block,
            number + 1,
            inode.meta.uid,
            inode.meta.gid,
            mtime_s,
            mtime_nsec,
            _SHARED_LINKS if is_shared else inode.nlink,
            bytes(16),
        )
        _put(region, offset, head + xattrs + data[outside:])
        _put(region, block << BLOCK_BITS, data[:outside])


def _inline_bytes(head: int, size: int) -> int:
    """How much of a directory lies behind its inode: the last, partial block where it fits."""
    tail = size % BLOCK_BYTES
    return tail if head + tail <= BLOCK_BYTES else 0


def _put(region: bytearray, offset: int, content: bytes) -> None:
    region[offset : offset + len(content)] = content
