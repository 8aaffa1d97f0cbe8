"""``ErofsReader``: reads the EROFS metadata region of a layer index in user space.

Used by the FUSE drivers, the commands and the converter (lower layers). It reads in place, keeps
nothing, and believes nothing: each access is bounds-checked, so a damaged region gives
IntegrityError, never a wrong memory access or an endless loop. What a whole region must look like is
``cafs.index.check``'s business.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cafs.core.entry import Meta
from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    CHUNK_BLKBITS_MASK,
    INODE,
    INODE_BYTES,
    NULL_ADDRESS,
    SLOT_BITS,
    SUPERBLOCK,
    SUPERBLOCK_MAGIC,
    SUPERBLOCK_OFFSET,
    SYMLINK_MAX_BYTES,
    Layout,
    decode_device,
    xattr_body_bytes,
)
from cafs.errors import IntegrityError
from cafs.index.dirblock import Entry, entry_count, entry_name, entry_nid, parse_block
from cafs.index.xattrs import parse_xattrs

_NS = 1_000_000_000
_EXTENDED = 1
_ADDRESSES = struct.Struct("<I")
_DEVICES = frozenset((stat.S_IFCHR, stat.S_IFBLK))
_KNOWN_FORMATS = frozenset(_EXTENDED | layout << 1 for layout in Layout)


@dataclass(frozen=True, slots=True)
class Inode:
    """One inode, as stat shows it, and where its data lies."""

    nid: int
    meta: Meta
    size: int
    nlink: int
    layout: int
    """A ``Layout`` value."""
    address: int
    """i_u: a block address or chunk format."""
    data_start: int
    """Byte of the inline data or chunk map in the region."""

    @property
    def is_directory(self) -> bool:
        """Whether it has entries."""
        return self.meta.mode & 0o170000 == stat.S_IFDIR

    @property
    def is_whiteout(self) -> bool:
        """Whether it is a char device 0:0, which hides a name of the layers below."""
        return self.meta.rdev == 0 and self.meta.mode & 0o170000 == stat.S_IFCHR


class ErofsReader:
    """A metadata region.

    Args:
        metadata: The region (``LayerIndex.metadata``).
        virtual_bytes: Size of the whole virtual image.

    Raises:
        IntegrityError: no superblock.
    """

    __slots__ = ("_metadata", "_size", "_virtual_bytes", "root_nid")

    def __init__(self, metadata: memoryview | bytes, virtual_bytes: int) -> None:
        self._metadata = memoryview(metadata)
        self._size = len(metadata)
        self._virtual_bytes = virtual_bytes
        if self._size < BLOCK_BYTES or virtual_bytes < self._size:
            raise IntegrityError(f"EROFS metadata of {self._size} bytes in an image of {virtual_bytes}")
        magic, _, _, bits, _, root_nid, *_ = SUPERBLOCK.unpack_from(self._metadata, SUPERBLOCK_OFFSET)
        if magic != SUPERBLOCK_MAGIC or bits != BLOCK_BITS:
            raise IntegrityError("the metadata region has no EROFS superblock")
        self.root_nid: int = root_nid

    def inode(self, nid: int) -> Inode:
        """The inode ``nid``.

        Raises:
            IntegrityError: it lies outside the region or is not of a kind that CAFS writes.
        """
        offset = nid << SLOT_BITS
        if not 0 <= offset <= self._size - INODE_BYTES:
            raise IntegrityError(f"inode {nid} lies outside the metadata region")
        (form, icount, mode, _, size, address, _, uid, gid, mtime_s, mtime_nsec, nlink, _) = (
            INODE.unpack_from(self._metadata, offset)
        )
        if form not in _KNOWN_FORMATS or mtime_nsec >= _NS:
            raise IntegrityError(f"inode {nid} has format {form:#x} and {mtime_nsec} nanoseconds")
        rdev = decode_device(address) if mode & 0o170000 in _DEVICES else 0
        offset += INODE_BYTES
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if icount:
            body_bytes = xattr_body_bytes(icount)
            xattrs = parse_xattrs(bytes(self._slice(nid, offset, body_bytes)), f"inode {nid}")
            offset += body_bytes
        meta = Meta(mode, uid, gid, mtime_s * _NS + mtime_nsec, rdev, xattrs)
        return Inode(nid, meta, size, nlink, form >> 1, address, offset)

    def mode(self, nid: int) -> int:
        """st_mode alone, for walks that need no more."""
        offset = nid << SLOT_BITS
        if not 0 <= offset <= self._size - INODE_BYTES:
            raise IntegrityError(f"inode {nid} lies outside the metadata region")
        mode: int = INODE.unpack_from(self._metadata, offset)[2]
        return mode

    def entries(self, nid: int) -> Iterator[Entry]:
        """(name, nid, EROFS file type) of a directory, sorted bytewise, without ``.`` and ``..``.

        Raises:
            IntegrityError: not a directory, or a damaged one.
        """
        directory = self._directory(nid)
        for number in range(self._block_count(directory)):
            for entry in parse_block(
                self._block(directory, number), f"directory inode {nid}, block {number}"
            ):
                if entry[0] not in {b".", b".."}:
                    yield entry

    def lookup(self, nid: int, name: bytes) -> int | None:
        """Nid of ``name`` in the directory ``nid``: a bisect over its blocks, then within one."""
        directory = self._directory(nid)
        low, high = 0, self._block_count(directory) - 1
        while low < high:
            middle = (low + high + 1) // 2
            block, where = self._block(directory, middle), f"directory inode {nid}, block {middle}"
            if entry_name(block, 0, entry_count(block, where), where) <= name:
                low = middle
            else:
                high = middle - 1
        block, where = self._block(directory, low), f"directory inode {nid}, block {low}"
        return _find_in_block(block, name, where)

    def parent(self, nid: int) -> int:
        """Nid of the directory's ``..``; the root is its own parent."""
        parent = self.lookup(nid, b"..")
        if parent is None:
            raise IntegrityError(f"directory inode {nid} has no '..'")
        return parent

    def symlink_target(self, nid: int) -> bytes:
        """Target of a symlink."""
        inode = self.inode(nid)
        if not stat.S_ISLNK(inode.meta.mode) or not 0 < inode.size <= SYMLINK_MAX_BYTES:
            raise IntegrityError(f"inode {nid} is no symlink of a possible length ({inode.size} bytes)")
        if inode.layout == Layout.FLAT_INLINE:
            return bytes(self._slice(nid, inode.data_start, inode.size))
        return bytes(self._slice(nid, inode.address << BLOCK_BITS, inode.size))

    def extents(self, nid: int) -> bytes | list[tuple[int, int, int]]:
        """A regular file's content: inline bytes, or its runs.

        Returns:
            Inline content; or (file offset, offset in the virtual image, length) of each run, in file
            order. What no run covers is a hole.
        """
        inode = self.inode(nid)
        if not stat.S_ISREG(inode.meta.mode):
            raise IntegrityError(f"inode {nid} is no regular file")
        if inode.layout == Layout.FLAT_INLINE:
            if inode.size >= BLOCK_BYTES:
                raise IntegrityError(f"inode {nid} claims {inode.size} bytes of inline content")
            return bytes(self._slice(nid, inode.data_start, inode.size))
        if inode.layout == Layout.CHUNK_BASED:
            return self._chunk_map(inode)
        if inode.size == 0:
            return []
        return [self._run(nid, 0, inode.address, inode.size)]

    def _directory(self, nid: int) -> Inode:
        inode = self.inode(nid)
        if not inode.is_directory or inode.layout == Layout.CHUNK_BASED:
            raise IntegrityError(f"inode {nid} is no directory")
        if not 0 < inode.size <= self._size:
            raise IntegrityError(f"directory inode {nid} claims {inode.size} bytes")
        return inode

    def _block_count(self, directory: Inode) -> int:
        return -(-directory.size >> BLOCK_BITS)

    def _block(self, directory: Inode, number: int) -> memoryview:
        start = number << BLOCK_BITS
        length = min(BLOCK_BYTES, directory.size - start)
        if directory.layout == Layout.FLAT_INLINE and length < BLOCK_BYTES:
            return self._slice(directory.nid, directory.data_start, length)
        return self._slice(directory.nid, (directory.address << BLOCK_BITS) + start, length)

    def _slice(self, nid: int, start: int, length: int) -> memoryview:
        if start + length > self._size:
            raise IntegrityError(f"data of inode {nid} lies outside the metadata region")
        return self._metadata[start : start + length]

    def _run(self, nid: int, file_offset: int, address: int, length: int) -> tuple[int, int, int]:
        start = address << BLOCK_BITS
        if start < self._size or start + length > self._virtual_bytes:
            raise IntegrityError(f"data of inode {nid} lies outside the data region")
        return file_offset, start, length

    def _chunk_map(self, inode: Inode) -> list[tuple[int, int, int]]:
        if inode.address & ~CHUNK_BLKBITS_MASK:
            raise IntegrityError(f"inode {inode.nid} has chunk format {inode.address:#x}")
        chunk_bytes = BLOCK_BYTES << inode.address
        count = -(-inode.size // chunk_bytes)
        addresses = self._slice(inode.nid, inode.data_start, 4 * count)
        runs: list[tuple[int, int, int]] = []
        for number, (address,) in enumerate(_ADDRESSES.iter_unpack(addresses)):
            if address == NULL_ADDRESS:
                continue
            file_offset = number * chunk_bytes
            length = min(chunk_bytes, inode.size - file_offset)
            run = self._run(inode.nid, file_offset, address, length)
            if runs and sum(runs[-1][::2]) == file_offset and sum(runs[-1][1:]) == run[1]:
                run = (runs[-1][0], runs[-1][1], runs[-1][2] + length)
                runs.pop()
            runs.append(run)
        return runs


def _find_in_block(block: memoryview, name: bytes, where: str) -> int | None:
    count = entry_count(block, where)
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        found = entry_name(block, middle, count, where)
        if found == name:
            return entry_nid(block, middle)
        if found < name:
            low = middle + 1
        else:
            high = middle
    return None
