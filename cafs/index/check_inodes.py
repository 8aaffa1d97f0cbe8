"""Checks inodes in bulk; part of ``check_index``.

``InodeChecker`` takes batches of nids as the walk finds them and claims the slots that each inode,
its xattrs and its inline data cover: what is claimed twice is refused, which also keeps the whole
check linear in the size of the region.
"""

from __future__ import annotations

import numpy as np

from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    CHUNK_BLKBITS_MASK,
    FIRST_INODE_OFFSET,
    INODE_BYTES,
    NULL_ADDRESS,
    OVERLAY_XATTRS,
    SLOT_BITS,
    SLOT_BYTES,
    SYMLINK_MAX_BYTES,
    Layout,
)
from cafs.errors import IntegrityError
from cafs.index.region_columns import (
    BLOCK_DEVICE,
    CHAR_DEVICE,
    DIRECTORY,
    MAX_FILE_BYTES,
    REGULAR,
    SYMLINK,
    Bools,
    Inodes,
    Ints,
    flat_ranges,
)
from cafs.index.xattrs import parse_xattrs

_DEVICES = [CHAR_DEVICE, BLOCK_DEVICE]
_SMALLEST_DIRECTORY = 27
"""Two entries and the names ``.`` and ``..``."""


class InodeChecker:
    """One metadata region."""

    def __init__(self, metadata: memoryview, virtual_bytes: int, chunk_maps: bool) -> None:
        self.region = np.frombuffer(metadata, dtype=np.uint8)
        self._slots = self.region.reshape(-1, SLOT_BYTES)
        self._virtual_bytes = virtual_bytes
        self._chunk_maps = chunk_maps
        self._claimed = np.zeros(len(self._slots), dtype=np.bool_)
        self._claimed[: FIRST_INODE_OFFSET >> SLOT_BITS] = True
        self._good_xattrs: set[bytes] = set()
        self.hides = False
        """Whether a whiteout or an attribute of overlayfs was met."""

    @property
    def slot_count(self) -> int:
        """Nids are below it."""
        return len(self._slots)

    def modes(self, nids: Ints) -> Ints:
        """st_mode of inodes within bounds."""
        mode: Ints = self._slots[nids, 4].astype(np.int64) | self._slots[nids, 5].astype(np.int64) << 8
        return mode

    def load(self, nids: Ints) -> Inodes:
        """The inodes' columns, without a look at them; nids must be within bounds."""
        return Inodes.load(self._slots, nids)

    def check(self, nids: Ints) -> Inodes:
        """Check inodes that were not seen before.

        Raises:
            IntegrityError: naming the inode.
        """
        inodes = self.load(nids)
        raw = inodes.raw
        inodes.refuse(inodes.kind == 0, "has an unknown file type")
        known = np.isin(raw["format"], [1 | layout << 1 for layout in Layout])
        inodes.refuse(~known, "has an unknown format")
        reserved = (raw["reserved"] != 0) | raw["reserved2"].any(axis=1)
        inodes.refuse(reserved, "has reserved bytes that are not zero")
        inodes.refuse(raw["mtime_nsec"] >= 1_000_000_000, "has a second of too many nanoseconds")
        inodes.refuse(raw["size"] >= MAX_FILE_BYTES, "has an absurd size")
        self._check_kinds(inodes)
        end = inodes.head_end + inodes.tail + self._chunk_map_bytes(inodes)
        inodes.refuse(end > len(self.region), "does not fit the metadata region")
        self._check_inline(inodes)
        self._claim(inodes, inodes.nid, end)
        # Only now, as no two inodes share their bytes, is what follows linear in the region's size.
        self._check_chunk_maps(inodes)
        self._check_symlinks(inodes)
        self._check_xattrs(inodes)
        return inodes

    def claim_blocks(self, inodes: Inodes, first: Ints, count: Ints) -> None:
        """Claim whole blocks of the region for the data of ``inodes``."""
        limit = len(self.region) >> BLOCK_BITS
        inodes.refuse((first < 1) | (first + count > limit), "has data outside the metadata region")
        shift = BLOCK_BITS - SLOT_BITS
        self._claim(inodes, first << shift, (first + count) << BLOCK_BITS)

    def _check_kinds(self, inodes: Inodes) -> None:
        kind, layout, size, u = inodes.kind, inodes.layout, inodes.size, inodes.u
        directory, regular, symlink = kind == DIRECTORY, kind == REGULAR, kind == SYMLINK
        other = ~(directory | regular | symlink)
        plain = layout == Layout.FLAT_PLAIN
        inodes.refuse((layout == Layout.CHUNK_BASED) & ~regular, "is chunk-based, but no regular file")
        inodes.refuse(other & (~plain | (size > 0)), "has content, but is no file")
        self.hides = self.hides or bool(((kind == CHAR_DEVICE) & (u == 0)).any())
        inodes.refuse(
            other & ~np.isin(kind, _DEVICES) & (u != 0),
            "has a device number, but is no device",
        )
        bad = directory & ((size < _SMALLEST_DIRECTORY) | (size > len(self.region)))
        inodes.refuse(bad, "is a directory of an impossible size")
        bad = symlink & ((size < 1) | (size > SYMLINK_MAX_BYTES))
        inodes.refuse(bad, "is a symlink of an impossible length")
        inodes.refuse(regular & plain & (size == 0) & (u != 0), "is empty, but has an address")
        start = u << BLOCK_BITS
        outside = (start < len(self.region)) | (size > self._virtual_bytes - start)
        inodes.refuse(regular & plain & (size > 0) & outside, "has data outside the data region")

    def _check_inline(self, inodes: Inodes) -> None:
        inline = inodes.layout == Layout.FLAT_INLINE
        inodes.refuse(inline & (inodes.tail == 0), "has inline data of no bytes")
        crosses = inodes.head_end % BLOCK_BYTES + inodes.tail > BLOCK_BYTES
        inodes.refuse(inline & crosses, "has inline data that crosses a block")
        whole = inline & (inodes.size < BLOCK_BYTES)
        inodes.refuse(whole & (inodes.u != 0), "has all its data inline, but an address too")
        large = inline & (inodes.size >= BLOCK_BYTES) & (inodes.kind != DIRECTORY)
        inodes.refuse(large, "has inline data beside blocks, but is no directory")

    def _chunk_map_bytes(self, inodes: Inodes) -> Ints:
        """Bytes of each inode's chunk map; 0 where it has none."""
        chunked = inodes.layout == Layout.CHUNK_BASED
        inodes.refuse(chunked & (not self._chunk_maps), "is chunk-based, which the superblock does not say")
        inodes.refuse(chunked & (inodes.u > CHUNK_BLKBITS_MASK), "has an unknown chunk format")
        inodes.refuse(chunked & (inodes.size == 0), "is chunk-based, but empty")
        shift = BLOCK_BITS + np.where(chunked, inodes.u, 0)
        map_bytes: Ints = np.where(chunked, 4 * (-(-inodes.size >> shift)), 0)
        return map_bytes

    def _check_chunk_maps(self, inodes: Inodes) -> None:
        for number in np.flatnonzero(inodes.layout == Layout.CHUNK_BASED).tolist():
            shift = BLOCK_BITS + int(inodes.u[number])
            size, start = int(inodes.size[number]), int(inodes.head_end[number])
            count = -(-size >> shift)
            addresses = self.region[start : start + 4 * count].view("<u4").astype(np.int64)
            begin = addresses << BLOCK_BITS
            length = np.full(count, 1 << shift, dtype=np.int64)
            length[-1] = size - ((count - 1) << shift)
            outside = (begin < len(self.region)) | (length > self._virtual_bytes - begin)
            if (outside & (addresses != NULL_ADDRESS)).any():
                raise IntegrityError(f"inode {int(inodes.nid[number])} has data outside the data region")

    def _check_symlinks(self, inodes: Inodes) -> None:
        symlink = inodes.kind == SYMLINK
        if not symlink.any():
            return
        links = inodes.only(symlink)
        plain = links.layout == Layout.FLAT_PLAIN
        self.claim_blocks(links.only(plain), links.u[plain], np.ones(int(plain.sum()), dtype=np.int64))
        start = np.where(plain, links.u << BLOCK_BITS, links.head_end)
        links.refuse(self.any_byte_of(start, links.size, (0,)), "is a symlink with a NUL in its target")

    def any_byte_of(self, starts: Ints, lengths: Ints, values: tuple[int, ...]) -> Bools:
        """For each run of bytes (none empty), whether one of ``values`` is in it."""
        where = flat_ranges(starts, lengths)
        hits = np.isin(self.region[where], values)
        firsts = np.cumsum(lengths) - lengths
        found: Bools = np.logical_or.reduceat(hits, firsts)
        return found

    def _check_xattrs(self, inodes: Inodes) -> None:
        with_xattrs = np.flatnonzero(inodes.xattr_bytes)
        for number in with_xattrs.tolist():
            nid, length = int(inodes.nid[number]), int(inodes.xattr_bytes[number])
            start = (nid << SLOT_BITS) + INODE_BYTES
            body = self.region[start : start + length].tobytes()
            if body in self._good_xattrs:
                continue
            names = [name for name, _ in parse_xattrs(body, f"inode {nid}")]
            self.hides = self.hides or any(name.startswith(OVERLAY_XATTRS) for name in names)
            if len(self._good_xattrs) < 1 << 10:
                self._good_xattrs.add(body)

    def _claim(self, inodes: Inodes, first_slot: Ints, end: Ints) -> None:
        count = (end + SLOT_BYTES - 1 >> SLOT_BITS) - first_slot
        if int(count.sum()) > len(self._claimed):
            raise IntegrityError("inodes overlap: together they are larger than the metadata region")
        slots = flat_ranges(first_slot, count)
        taken = self._claimed[slots]
        self._claimed[slots] = True
        again = np.ones(len(slots), dtype=np.bool_)
        again[np.unique(slots, return_index=True)[1]] = False
        if (taken | again).any():
            owner = np.repeat(inodes.nid, count)[np.argmax(taken | again)]
            raise IntegrityError(f"inode {int(owner)} or its data overlaps another one")
