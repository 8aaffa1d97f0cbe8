"""Inodes and directory blocks of a metadata region as numpy columns, for what goes over all of them at once.

Used by the check of an index and by the merging of layers. ``Inodes.load`` believes what it reads: bounds
are the caller's to check. Format: ``cafs.core.erofs``.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    FILE_TYPES,
    INODE_BYTES,
    SLOT_BITS,
    XATTR_HEADER_BYTES,
    Layout,
)
from cafs.errors import IntegrityError

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

INODE_ROW = np.dtype(
    [
        ("format", "<u2"),
        ("icount", "<u2"),
        ("mode", "<u2"),
        ("reserved", "<u2"),
        ("size", "<u8"),
        ("u", "<u4"),
        ("ino", "<u4"),
        ("uid", "<u4"),
        ("gid", "<u4"),
        ("mtime", "<i8"),
        ("mtime_nsec", "<u4"),
        ("nlink", "<u4"),
        ("reserved2", "<u8", (2,)),
    ]
)
assert INODE_ROW.itemsize == INODE_BYTES
MAX_FILE_BYTES = 1 << 62
REGULAR, DIRECTORY, SYMLINK, CHAR_DEVICE, BLOCK_DEVICE = (
    FILE_TYPES[kind] for kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK)
)
KIND_OF_MODE = np.zeros(16, dtype=np.int64)
"""EROFS's file type by ``st_mode >> 12``; 0 for none."""
for _mode, _kind in FILE_TYPES.items():
    KIND_OF_MODE[_mode >> 12] = _kind


class Inodes:
    """A batch of inodes: columns."""

    def __init__(self, nid: Ints, raw: NDArray[np.void]) -> None:
        self.nid = nid
        self.raw = raw
        self.mode = raw["mode"].astype(np.int64)
        self.kind = KIND_OF_MODE[self.mode >> 12]
        self.layout = (raw["format"] >> 1).astype(np.int64)
        self.u = raw["u"].astype(np.int64)
        self.nlink = raw["nlink"].astype(np.int64)
        self.size = np.minimum(raw["size"], MAX_FILE_BYTES).astype(np.int64)
        icount = raw["icount"].astype(np.int64)
        self.xattr_bytes = np.where(icount > 0, XATTR_HEADER_BYTES + 4 * (icount - 1), 0)
        self.head_end = (nid << SLOT_BITS) + INODE_BYTES + self.xattr_bytes
        self.tail = np.where(self.layout == Layout.FLAT_INLINE, self.size % BLOCK_BYTES, 0)

    @classmethod
    def load(cls, slots: NDArray[np.uint8], nids: Ints) -> Inodes:
        """Inodes of a region, which is given as rows of SLOT_BYTES; nids must be within bounds."""
        raw = np.concatenate((slots[nids], slots[nids + 1]), axis=1)
        return cls(nids, raw.view(INODE_ROW).reshape(-1))

    def only(self, which: Bools) -> Inodes:
        """Some of them."""
        return Inodes(self.nid[which], self.raw[which])

    def refuse(self, bad: Bools, what: str) -> None:
        """Raise for the first inode that is ``bad``."""
        if bad.any():
            raise IntegrityError(f"inode {int(self.nid[np.argmax(bad)])} {what}")


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """Directory blocks: where each starts in the region, its bytes, its directory's number."""

    start: Ints
    length: Ints
    directory: Ints

    def __len__(self) -> int:
        return len(self.start)

    def part(self, first: int, stop: int) -> BlockBatch:
        """Some of them."""
        return BlockBatch(self.start[first:stop], self.length[first:stop], self.directory[first:stop])


def outside_blocks(directories: Inodes) -> Ints:
    """How many blocks each directory has that do not follow its inode."""
    count: Ints = -(-directories.size >> BLOCK_BITS) - (directories.layout == Layout.FLAT_INLINE)
    return count


def directory_blocks(directories: Inodes) -> BlockBatch:
    """Every block of every directory, in order."""
    inline = directories.layout == Layout.FLAT_INLINE
    count = -(-directories.size >> BLOCK_BITS)
    owner = np.repeat(np.arange(len(count), dtype=np.int64), count)
    number = flat_ranges(np.zeros(len(count), dtype=np.int64), count)
    is_tail = inline[owner] & (number == count[owner] - 1)
    start = np.where(is_tail, directories.head_end[owner], (directories.u[owner] + number) << BLOCK_BITS)
    length = np.minimum(BLOCK_BYTES, directories.size[owner] - (number << BLOCK_BITS))
    return BlockBatch(start, length, owner)


def flat_ranges(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1, ... of every range, one after the other."""
    total = int(counts.sum())
    firsts = np.cumsum(counts) - counts
    flat: Ints = np.repeat(starts - firsts, counts) + np.arange(total, dtype=np.int64)
    return flat


def sorted_once(nids: Ints) -> Ints:
    """Sorted, each once. ``np.unique`` without the tenth of a second in which it loads ``numpy.ma``."""
    ordered = np.sort(nids)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered
