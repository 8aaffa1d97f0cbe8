"""Columns of a layer tree: inodes and names as arrays, so that a million of them fit in memory.

``LayerTree`` owns one of each and gives them their meaning; the writer reads them. An inode is a
row number of ``InodeColumns``. Python objects per inode would cost ten times as much.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from enum import IntEnum

from cafs.core.entry import Extent, Meta
from cafs.errors import UsageError

NO_INODE = 0xFFFFFFFF
_NO_NAME = 0xFFFFFFFF
_NS = 1_000_000_000


class Content(IntEnum):
    """What ``InodeColumns.content`` says of ``InodeColumns.data``."""

    NONE = 0
    """Nothing: directory, device, fifo, socket or an empty file."""
    INLINE = 1
    """Offset in the pool of small contents and link targets."""
    EXTENT = 2
    """Data offset of the one run that holds the whole file."""
    SPARSE = 3
    """Number of a list of extents."""


class InodeColumns:
    """One row per inode."""

    def __init__(self) -> None:
        self.mode = array("H")
        self.uid = array("I")
        self.gid = array("I")
        self.mtime_ns = array("q")
        self._far_mtimes: dict[int, int] = {}
        self.rdev = array("Q")
        self.xattrs = array("I")
        self.size = array("Q")
        self.content = array("B")
        self.data = array("Q")
        self.flags = array("B")
        self.first_name = array("I")
        self.pool = bytearray()
        self.extents: list[tuple[Extent, ...]] = []
        self._xattr_sets: list[tuple[tuple[bytes, bytes], ...]] = [()]
        self._xattr_numbers: dict[tuple[tuple[bytes, bytes], ...], int] = {(): 0}

    def __len__(self) -> int:
        return len(self.mode)

    def append(self, meta: Meta, size: int, content: Content, data: int, flags: int = 0) -> int:
        """A new inode."""
        inode = len(self.mode)
        self.mode.append(meta.mode)
        self.uid.append(meta.uid)
        self.gid.append(meta.gid)
        self.mtime_ns.append(0)
        self._set_mtime(inode, meta.mtime_ns)
        self.rdev.append(meta.rdev)
        self.xattrs.append(self._intern(meta.xattrs))
        self.size.append(size)
        self.content.append(content)
        self.data.append(data)
        self.flags.append(flags)
        self.first_name.append(_NO_NAME)
        return inode

    def set_meta(self, inode: int, meta: Meta) -> None:
        """Replace everything but content, links and flags."""
        self.mode[inode] = meta.mode
        self.uid[inode] = meta.uid
        self.gid[inode] = meta.gid
        self._set_mtime(inode, meta.mtime_ns)
        self.rdev[inode] = meta.rdev
        self.xattrs[inode] = self._intern(meta.xattrs)

    def meta(self, inode: int) -> Meta:
        """The inode's metadata as it was given."""
        return Meta(
            mode=self.mode[inode],
            uid=self.uid[inode],
            gid=self.gid[inode],
            mtime_ns=self.full_mtime_ns(inode),
            rdev=self.rdev[inode],
            xattrs=self._xattr_sets[self.xattrs[inode]],
        )

    def full_mtime_ns(self, inode: int) -> int:
        """Nanoseconds since 1970; a time beyond 64 bits of them (year 2262) is kept beside the column."""
        return self._far_mtimes.get(inode, self.mtime_ns[inode])

    def xattr_sets(self) -> list[tuple[tuple[bytes, bytes], ...]]:
        """Every distinct set of xattrs; ``xattrs`` holds numbers of it."""
        return self._xattr_sets

    def _set_mtime(self, inode: int, mtime_ns: int) -> None:
        self._far_mtimes.pop(inode, None)
        if -(1 << 63) <= mtime_ns < 1 << 63:
            self.mtime_ns[inode] = mtime_ns
        elif -(1 << 63) <= mtime_ns // _NS < 1 << 63:
            self._far_mtimes[inode] = mtime_ns
        else:
            raise UsageError(f"modification time {mtime_ns // _NS} does not fit 64 bits")

    def _intern(self, xattrs: tuple[tuple[bytes, bytes], ...]) -> int:
        number = self._xattr_numbers.get(xattrs)
        if number is None:
            number = len(self._xattr_sets)
            self._xattr_sets.append(xattrs)
            self._xattr_numbers[xattrs] = number
        return number


class NameTable:
    """(parent inode, name) -> inode, as an open-addressing hash table over columns.

    A name is never removed: ``inode`` becomes NO_INODE when it goes, and is set again when it comes
    back. ``hash()`` differs from run to run, but only decides where in the table a name lies, never
    an order that anybody sees.
    """

    def __init__(self) -> None:
        self.inode = array("I")
        self._parent = array("I")
        self._hash = array("I")
        self._offset = array("I")
        self._length = array("B")
        self._next = array("I")
        self._pool = bytearray()
        self._slots = array("I", [_NO_NAME]) * 1024

    def find(self, parent: int, name: bytes) -> int | None:
        """Number of the name, live or not."""
        short = hash((parent, name)) & 0xFFFFFFFF
        number = self._slots[self._probe(parent, name, short)]
        return None if number == _NO_NAME else number

    def add(self, parent: int, name: bytes, inode: int, siblings: array[int]) -> None:
        """Bind a name that ``find`` did not find; ``siblings`` holds each directory's last name."""
        if 2 * len(self.inode) >= len(self._slots):
            self._grow()
        short = hash((parent, name)) & 0xFFFFFFFF
        number = len(self.inode)
        if number >= _NO_NAME or len(self._pool) + len(name) > 0xFFFFFFFF:
            raise UsageError("a layer with more than 2^32 names cannot be converted")
        self._slots[self._probe(parent, name, short)] = number
        self.inode.append(inode)
        self._parent.append(parent)
        self._hash.append(short)
        self._offset.append(len(self._pool))
        self._length.append(len(name))
        self._pool += name
        self._next.append(siblings[parent])
        siblings[parent] = number

    def children(self, first: int) -> Iterator[tuple[bytes, int]]:
        """(name, inode) of the live names of a directory's chain, in no meaningful order."""
        number = first
        while number != _NO_NAME:
            inode = self.inode[number]
            if inode != NO_INODE:
                start = self._offset[number]
                yield bytes(self._pool[start : start + self._length[number]]), inode
            number = self._next[number]

    def _probe(self, parent: int, name: bytes, short: int) -> int:
        """The slot that holds the name, or the free one where it belongs."""
        slots, mask = self._slots, len(self._slots) - 1
        slot = short & mask
        while (number := slots[slot]) != _NO_NAME:
            if self._hash[number] == short and self._parent[number] == parent:
                start = self._offset[number]
                if self._pool[start : start + self._length[number]] == name:
                    return slot
            slot = (slot + 1) & mask
        return slot

    def _grow(self) -> None:
        size = 2 * len(self._slots)
        slots, mask = array("I", [_NO_NAME]) * size, size - 1
        for number, short in enumerate(self._hash):
            slot = short & mask
            while slots[slot] != _NO_NAME:
                slot = (slot + 1) & mask
            slots[slot] = number
        self._slots = slots
