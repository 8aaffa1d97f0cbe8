"""Columns of a layer tree: inodes and names as rows of numbers in a ``Scratch``: millions of them fit.

``LayerTree`` owns one of each and gives them their meaning; the writer reads them. An inode is a
row number of ``InodeColumns``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from heapq import merge
from itertools import islice

from cafs.core.entry import Extent, Meta
from cafs.core.erofs import encode_xattrs
from cafs.errors import UsageError
from cafs.index.hash_index import HashIndex
from cafs.index.scratch import SETTLE_EVERY, Pool, Scratch
from cafs.index.xattrs import parse_xattrs

NO_INODE = 0xFFFFFFFF
_NO_NAME = 0xFFFFFFFF
_MAX_NAMES = 1 << 31
_NS = 1_000_000_000
_INODE = struct.Struct("=qQQQIIIIIHBB")
"""The row of an inode, in the order of the columns that ``_take_columns`` takes."""
_NAME = struct.Struct("=QIIIB3x")
_XATTR_HEAD = struct.Struct("=I")
_EXTENT = struct.Struct("=QQQ")
_XATTR_SETS_AT_HAND = 1024
_SORTED_AT_ONCE = 1 << 15
"""Names, which take some 150 bytes each while they are sorted."""


class Content(IntEnum):
    """What ``InodeColumns.content`` says of ``InodeColumns.data``."""

    NONE = 0
    """Nothing: directory, device, fifo, socket or an empty file."""
    INLINE = 1
    """Offset in the pool of small contents and link targets."""
    EXTENT = 2
    """Data offset of the one run that holds the whole file."""
    SPARSE = 3
    """Offset in the pool of a list of extents."""


class InodeColumns:
    """One row per inode."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._rows = scratch.rows(_INODE.size)
        self._count = 0
        self._take_columns()
        self.pool = Pool(scratch)
        """Small contents, link targets, lists of extents."""
        self._xattrs = XattrSets(scratch)

    def __len__(self) -> int:
        return self._count

    def append(self, meta: Meta, size: int, content: Content, data: int, flags: int = 0) -> int:
        """A new inode."""
        inode = self._count
        if inode == self._rows.capacity:
            self._rows.grow()
            self._take_columns()
        if not inode % SETTLE_EVERY:
            self._scratch.settle()
        mtime_s, mtime_nsec = split_mtime(meta.mtime_ns)
        xattrs = self._xattrs.number(meta.xattrs) if meta.xattrs else 0
        _INODE.pack_into(
            self._rows.data, inode * _INODE.size, mtime_s, size, data, meta.rdev, mtime_nsec,
            meta.uid, meta.gid, xattrs, _NO_NAME, meta.mode, content, flags,
        )  # fmt: skip
        self._count += 1
        return inode

    def set_meta(self, inode: int, meta: Meta) -> None:
        """Replace everything but content, links and flags."""
        self.mtime_s[inode], self.mtime_nsec[inode] = split_mtime(meta.mtime_ns)
        self.mode[inode] = meta.mode
        self.uid[inode] = meta.uid
        self.gid[inode] = meta.gid
        self.rdev[inode] = meta.rdev
        self.xattrs[inode] = self._xattrs.number(meta.xattrs)

    def meta(self, inode: int) -> Meta:
        """The inode's metadata as it was given."""
        return Meta(
            mode=self.mode[inode],
            uid=self.uid[inode],
            gid=self.gid[inode],
            mtime_ns=self.mtime_s[inode] * _NS + self.mtime_nsec[inode],
            rdev=self.rdev[inode],
            xattrs=self._xattrs.pairs(self.xattrs[inode]),
        )

    def xattr_body(self, inode: int) -> bytes:
        """Its xattrs as an EROFS inode has them."""
        number = self.xattrs[inode]
        return self._xattrs.body(number) if number else b""

    def add_extents(self, extents: tuple[Extent, ...]) -> int:
        """Keep a sparse file's runs; what ``data`` says then."""
        packed = [_EXTENT.pack(run.file_offset, run.data_offset, run.length) for run in extents]
        return self.pool.append(_EXTENT.pack(len(packed), 0, 0) + b"".join(packed))

    def extents(self, inode: int) -> tuple[Extent, ...]:
        """The runs of a sparse file."""
        start = self.data[inode]
        count = _EXTENT.unpack(self.pool.read(start, _EXTENT.size))[0]
        packed = self.pool.read(start + _EXTENT.size, count * _EXTENT.size)
        return tuple(Extent(*fields) for fields in _EXTENT.iter_unpack(packed))

    def _take_columns(self) -> None:
        column = self._rows.column
        self.mtime_s = column("q", 0)
        self.size = column("Q", 8)
        self.data = column("Q", 16)
        self.rdev = column("Q", 24)
        self.mtime_nsec = column("I", 32)
        self.uid = column("I", 36)
        self.gid = column("I", 40)
        self.xattrs = column("I", 44)
        self.first_name = column("I", 48)
        self.mode = column("H", 52)
        self.content = column("B", 54)
        self.flags = column("B", 55)


def split_mtime(mtime_ns: int) -> tuple[int, int]:
    """Seconds and nanoseconds.

    Raises:
        UsageError: the seconds do not fit 64 bits.
    """
    mtime_s, mtime_nsec = divmod(mtime_ns, _NS)
    if not -(1 << 63) <= mtime_s < 1 << 63:
        raise UsageError(f"modification time {mtime_s} does not fit 64 bits")
    return mtime_s, mtime_nsec


class XattrSets:
    """Sets of xattrs by number, encoded. Most files have none, or the same as others nearby."""

    def __init__(self, scratch: Scratch) -> None:
        self._pool = Pool(scratch)
        self._rows = scratch.rows(8)
        self._offsets = self._rows.column("Q")
        self._count = 0
        self._at_hand: dict[tuple[tuple[bytes, bytes], ...], int] = {}

    def number(self, xattrs: tuple[tuple[bytes, bytes], ...]) -> int:
        """Of a set; 0 is the empty one. An equal set may have several numbers."""
        if not xattrs:
            return 0
        number = self._at_hand.get(xattrs)
        if number is None:
            number = self._add(encode_xattrs(xattrs))
            if len(self._at_hand) == _XATTR_SETS_AT_HAND:
                self._at_hand.clear()
            self._at_hand[xattrs] = number
        return number

    def body(self, number: int) -> bytes:
        """As ``encode_xattrs`` makes it."""
        if not number:
            return b""
        start = self._offsets[number - 1]
        size = _XATTR_HEAD.unpack(self._pool.read(start, _XATTR_HEAD.size))[0]
        return self._pool.read(start + _XATTR_HEAD.size, size)

    def pairs(self, number: int) -> tuple[tuple[bytes, bytes], ...]:
        """As it was given."""
        return parse_xattrs(self.body(number), "a converted inode") if number else ()

    def _add(self, body: bytes) -> int:
        if self._count == self._rows.capacity:
            self._rows.grow()
            self._offsets = self._rows.column("Q")
        self._offsets[self._count] = self._pool.append(_XATTR_HEAD.pack(len(body)) + body)
        self._count += 1
        return self._count


class NameTable:
    """(parent inode, name) -> inode, and each directory's names as a chain.

    A name is never removed: ``inode`` becomes NO_INODE when it goes, and is set again when it comes
    back. ``hash()`` differs from run to run, but only decides where in the index a name lies, never
    an order that anybody sees.
    """

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._rows = scratch.rows(_NAME.size)
        self._count = 0
        self._take_columns()
        self._pool = Pool(scratch)
        self._index = HashIndex(scratch)

    def find(self, parent: int, name: bytes) -> int | None:
        """Number of the name, live or not."""

        def is_it(number: int) -> bool:
            return self._parent[number] == parent and self._name(number) == name

        return self._index.find(hash((parent, name)) & 0xFFFFFFFF, is_it)

    def add(self, parent: int, name: bytes, inode: int, siblings: memoryview) -> None:
        """Bind a name that ``find`` did not find; ``siblings`` holds each directory's last name."""
        number = self._count
        if number == _MAX_NAMES:
            raise UsageError("a layer with more than 2^31 names cannot be converted")
        if number == self._rows.capacity:
            self._rows.grow()
            self._take_columns()
        start = self._pool.append(name)
        _NAME.pack_into(
            self._rows.data, number * _NAME.size, start, inode, parent, siblings[parent], len(name)
        )
        self._count += 1
        self._index.add(hash((parent, name)) & 0xFFFFFFFF, number)
        siblings[parent] = number

    def children(self, first: int) -> Iterator[tuple[bytes, int]]:
        """(name, inode) of the live names of a directory's chain; sorted only if ``sort`` made it."""
        inodes, following, offset, length = self.inode, self._next, self._offset, self._length
        names, number, seen = self._pool.data, first, 0
        while number != _NO_NAME:
            if not seen % SETTLE_EVERY:
                self._scratch.settle()
            seen += 1
            inode = inodes[number]
            if inode != NO_INODE:
                start = offset[number]
                yield names[start : start + length[number]], inode
            number = following[number]

    def sort(self, first: int) -> int:
        """Put a directory's chain in bytewise order; its new first name.

        However long it is, only some of the names are in memory at a time.
        """
        chain = self._chain(first)
        heads: list[int] = []
        while run := [(self._name(number), number) for number in islice(chain, _SORTED_AT_ONCE)]:
            run.sort()
            heads.append(self._link(number for _, number in run))
        if not heads:
            return _NO_NAME
        return heads[0] if len(heads) == 1 else self._link(merge(*map(self._chain, heads), key=self._name))

    def _link(self, numbers: Iterable[int]) -> int:
        """Make a chain of names; the first of them. A chain that they come from must be read ahead by one."""
        following, numbers = self._next, iter(numbers)
        first = last = next(numbers)
        for linked, number in enumerate(numbers, 1):
            if not linked % SETTLE_EVERY:
                self._scratch.settle()
            following[last] = number
            last = number
        following[last] = _NO_NAME
        return first

    def _chain(self, first: int) -> Iterator[int]:
        following, number, seen = self._next, first, 0
        while number != _NO_NAME:
            if not seen % SETTLE_EVERY:
                self._scratch.settle()
            seen += 1
            current, number = number, following[number]
            yield current

    def _name(self, number: int) -> bytes:
        return self._pool.read(self._offset[number], self._length[number])

    def _take_columns(self) -> None:
        column = self._rows.column
        self._offset = column("Q", 0)
        self.inode = column("I", 8)
        self._parent = column("I", 12)
        self._next = column("I", 16)
        self._length = column("B", 20)
