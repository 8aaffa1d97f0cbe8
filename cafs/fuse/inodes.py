"""Inodes of one layer as FUSE wants them, taken straight from the mapped metadata region.

Used by ``merged``. ``cafs.index.reader`` makes an object of an inode; here a walk over a hundred thousand
of them goes from EROFS bytes to FUSE bytes in one unpack and one pack each. Format: ``cafs.core.erofs``.
Every access is bounds-checked: ``IntegrityError``.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from struct import Struct
from typing import NamedTuple

from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    CHUNK_BLKBITS_MASK,
    INODE,
    INODE_BYTES,
    NULL_ADDRESS,
    SLOT_BITS,
    Layout,
    xattr_body_bytes,
)
from cafs.errors import IntegrityError
from cafs.fuse import abi, replies
from cafs.fuse.replies import BLOCK_BYTES as STAT_BLOCK
from cafs.fuse.replies import FOREVER_S, Listing

_RECORD = Struct("=QQQQII" + abi.ATTR.format[1:] + abi.DIRENT.format[1:])
"""A READDIRPLUS record before its name: entry head, fuse_attr, dirent."""
_U64 = (1 << 64) - 1
_U32 = Struct("<I")
_SECTORS_PER_BLOCK = STAT_BLOCK // 512
_DEVICES = frozenset((stat.S_IFCHR, stat.S_IFBLK))


class Run(NamedTuple):
    """A part of a read."""

    start: int | None
    """Byte of the virtual image; None for a hole."""
    length: int


class LayerInodes:
    """The inodes of one layer's metadata region."""

    def __init__(self, metadata: memoryview, virtual_bytes: int) -> None:
        self._metadata = metadata
        self._last_offset = len(metadata) - INODE_BYTES
        self._virtual_bytes = virtual_bytes

    def attr(self, nid: int, ino: int, *, merged: bool = False) -> bytes:
        """The encoded ``fuse_attr``. A merged directory has one link, as overlayfs says."""
        _form, _icount, mode, _, size, address, _ino, uid, gid, mtime_s, mtime_ns, nlink, _ = self._raw(nid)
        seconds = mtime_s & _U64
        return abi.ATTR.pack(
            ino, size, -(-size // STAT_BLOCK) * _SECTORS_PER_BLOCK, seconds, seconds, seconds,
            mtime_ns, mtime_ns, mtime_ns, mode, 1 if merged else nlink, uid, gid,
            address if mode & 0o170000 in _DEVICES else 0, STAT_BLOCK, 0,
        )  # fmt: skip

    def mode(self, nid: int) -> int:
        """``st_mode``."""
        mode: int = self._raw(nid)[2]
        return mode

    def runs(self, nid: int, offset: int, size: int) -> list[Run] | memoryview:
        """Where ``size`` bytes from ``offset`` of a regular file lie, or the bytes if they are inline."""
        raw = self._raw(nid)
        form, icount, mode, file_bytes, address = raw[0], raw[1], raw[2], raw[4], raw[5]
        if not stat.S_ISREG(mode):
            raise IntegrityError(f"inode {nid} is no regular file")
        end = min(offset + size, file_bytes)
        if offset >= end:
            return []
        layout = form >> 1
        if layout == Layout.FLAT_PLAIN:
            return [self._run(nid, (address << BLOCK_BITS) + offset, end - offset)]
        behind = (nid << SLOT_BITS) + INODE_BYTES + (xattr_body_bytes(icount) if icount else 0)
        if layout == Layout.FLAT_INLINE and file_bytes < BLOCK_BYTES:
            return self._slice(nid, behind + offset, end - offset)
        if layout == Layout.CHUNK_BASED and not address & ~CHUNK_BLKBITS_MASK:
            return self._mapped_runs(nid, behind, BLOCK_BITS + address, offset, end)
        raise IntegrityError(f"inode {nid} has format {form:#x}, which CAFS does not write")

    def listing(self, dots: bytes, ends: list[int], entries: Iterable[tuple[bytes, int, int]]) -> Listing:
        """Encode a directory whose entries are all of this layer and all unmerged.

        Args:
            dots: Records of ``.`` and ``..``.
            ends: Where these end.
            entries: (name, nid, node id); the node id is also the inode number.
        """
        records = bytearray(dots)
        pack, unpack, metadata, last = _RECORD.pack, INODE.unpack_from, self._metadata, self._last_offset
        cookie = len(ends)
        for name, nid, node in entries:
            offset = nid << SLOT_BITS
            if not 0 <= offset <= last:
                raise IntegrityError(f"inode {nid} lies outside the metadata region")
            _f, _x, mode, _r, size, address, _i, uid, gid, mtime_s, mtime_ns, nlink, _ = unpack(
                metadata, offset
            )
            seconds = mtime_s & _U64
            kind = mode & 0o170000
            cookie += 1
            name_bytes = len(name)
            records += pack(
                node, 0, FOREVER_S, FOREVER_S, 0, 0,
                node, size, -(-size // STAT_BLOCK) * _SECTORS_PER_BLOCK, seconds, seconds, seconds,
                mtime_ns, mtime_ns, mtime_ns, mode, nlink, uid, gid,
                address if kind in _DEVICES else 0, STAT_BLOCK, 0,
                node, cookie, name_bytes, kind >> 12,
            )  # fmt: skip
            records += name
            if name_bytes & 7:
                records += bytes(-name_bytes & 7)
            ends.append(len(records))
        return Listing(bytes(records), ends)

    def _raw(self, nid: int) -> tuple[int, ...]:
        offset = nid << SLOT_BITS
        if not 0 <= offset <= self._last_offset:
            raise IntegrityError(f"inode {nid} lies outside the metadata region")
        return INODE.unpack_from(self._metadata, offset)

    def _mapped_runs(self, nid: int, map_start: int, chunk_bits: int, offset: int, end: int) -> list[Run]:
        """Only the part of the chunk map that this read needs is looked at."""
        runs: list[Run] = []
        while offset < end:
            number = offset >> chunk_bits
            length = min(end, (number + 1) << chunk_bits) - offset
            (address,) = _U32.unpack(self._slice(nid, map_start + 4 * number, 4))
            if address == NULL_ADDRESS:
                run = Run(None, length)
            else:
                within = offset - (number << chunk_bits)
                run = self._run(nid, (address << BLOCK_BITS) + within, length)
            runs.append(run)
            offset += length
        return _joined(runs)

    def _run(self, nid: int, start: int, length: int) -> Run:
        if start < len(self._metadata) or start + length > self._virtual_bytes:
            raise IntegrityError(f"data of inode {nid} lies outside the data region")
        return Run(start, length)

    def _slice(self, nid: int, start: int, length: int) -> memoryview:
        if start + length > len(self._metadata):
            raise IntegrityError(f"data of inode {nid} lies outside the metadata region")
        return self._metadata[start : start + length]


def _joined(runs: list[Run]) -> list[Run]:
    """Neighbours in one, so that they are read in one."""
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if last is None or (last.start is None) != (run.start is None):
            joined.append(run)
        elif last.start is None:
            joined[-1] = Run(None, last.length + run.length)
        elif last.start + last.length == run.start:
            joined[-1] = Run(last.start, last.length + run.length)
        else:
            joined.append(run)
    return joined


def encode_dots(ino: int, parent_ino: int) -> tuple[bytes, list[int]]:
    """Records of ``.`` and ``..`` and where they end."""
    kind = stat.S_IFDIR >> 12
    dots = ((b".", ino), (b"..", parent_ino))
    listing = replies.encode_listing(
        replies.DirectoryEntry(name, 0, b"", number, kind) for name, number in dots
    )
    return listing.records, list(listing.ends)
