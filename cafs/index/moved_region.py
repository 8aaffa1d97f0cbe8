"""The metadata region of a layer, made to fit another place of another image; in bulk.

Used by ``cafs.index.merge_layers``. In a merged image a layer's metadata and data lie elsewhere than in the
layer's own image, so all nids in its directories and all block addresses in its inodes change by a fixed
amount each; directories that were made anew are named by their new nid. Sizes, names, offsets stay, so that
nothing is laid out again. The region was checked (``cafs.index.check``): bounds are not looked at here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    DIRENT_BYTES,
    INODE_BYTES,
    NULL_ADDRESS,
    OVERLAY_XATTRS,
    SLOT_BITS,
    SLOT_BYTES,
    XATTR_ENTRY,
    XATTR_HEADER_BYTES,
    Layout,
)
from cafs.index.region_columns import (
    CHAR_DEVICE,
    DIRECTORY,
    REGULAR,
    SYMLINK,
    Inodes,
    Ints,
    directory_blocks,
    flat_ranges,
    sorted_once,
)

_U_AT = 16
"""Byte of i_u in an inode."""
_TRUSTED, _NO_INDEX = 4, 0
_OVERLAY = OVERLAY_XATTRS.removeprefix(b"trusted.")


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much the numbers of a layer grow."""

    nid: int
    metadata_blocks: int
    data_blocks: int


class LayerContents:
    """What the root of a checked region leads to."""

    def __init__(self, metadata: memoryview, root_nid: int) -> None:
        self._region = np.frombuffer(metadata, dtype=np.uint8)
        self._slots = self._region.reshape(-1, SLOT_BYTES)
        seen = np.zeros(len(self._slots), dtype=np.bool_)
        seen[root_nid] = True
        directories = Inodes.load(self._slots, np.array([root_nid], dtype=np.int64))
        found: list[tuple[Ints, Ints, Ints]] = []
        while len(directories.nid):
            at, owner = self._entries_of(directories)
            nids = self._nids_at(at)
            found.append((at, nids, owner))
            fresh = sorted_once(nids[~seen[nids]])
            seen[fresh] = True
            below = Inodes.load(self._slots, fresh)
            directories = below.only(below.kind == DIRECTORY)
        self.inodes = Inodes.load(self._slots, np.flatnonzero(seen).astype(np.int64))
        """Every inode."""
        self._at, self._nids, self._owners = (np.concatenate(column) for column in zip(*found, strict=True))

    def directories_with_whiteouts(self) -> list[int]:
        """Nids, ascending."""
        whiteout = np.zeros(len(self._slots), dtype=np.bool_)
        whiteout[self.inodes.nid[(self.inodes.kind == CHAR_DEVICE) & (self.inodes.u == 0)]] = True
        nids: list[int] = sorted_once(self._owners[whiteout[self._nids]]).tolist()
        return nids

    def move(self, copy: NDArray[np.uint8], shift: Shift, replaced: Mapping[int, int]) -> None:
        """Change the numbers in a copy of the region.

        Args:
            copy: Writable, its first byte at a multiple of 4096.
            shift: By how much.
            replaced: Nids of this layer's directories and the merged image's nids of what replaces them.
        """
        words = copy.view("<u4")
        self._move_entries(words, shift, replaced)
        self._move_addresses(words, shift)
        self._move_chunk_maps(words, shift)

    def hide_overlay_xattrs(self, copy: NDArray[np.uint8]) -> None:
        """Make overlayfs's own attributes unknown ones, which the kernel shows nobody: as overlayfs does."""
        inodes = self.inodes
        for number in np.flatnonzero(inodes.xattr_bytes).tolist():
            start = (int(inodes.nid[number]) << SLOT_BITS) + INODE_BYTES
            end = start + int(inodes.xattr_bytes[number])
            body = self._region[start:end].tobytes()
            if _OVERLAY in body:
                for offset in _overlay_entries(body):
                    copy[start + offset + 1] = _NO_INDEX

    def _entries_of(self, directories: Inodes) -> tuple[Ints, Ints]:
        """Byte of every entry of these directories, and its directory's nid."""
        blocks = directory_blocks(directories)
        low, high = self._region[blocks.start + 8], self._region[blocks.start + 9]
        count = (low.astype(np.int64) | high.astype(np.int64) << 8) // DIRENT_BYTES
        block = np.repeat(np.arange(len(blocks), dtype=np.int64), count)
        number = flat_ranges(np.zeros(len(blocks), dtype=np.int64), count)
        at: Ints = blocks.start[block] + number * DIRENT_BYTES
        return at, directories.nid[blocks.directory[block]]

    def _nids_at(self, at: Ints) -> Ints:
        words = self._region.view("<u4")
        nids: Ints = words[at >> 2].astype(np.int64) | words[(at >> 2) + 1].astype(np.int64) << 32
        return nids

    def _move_entries(self, words: NDArray[np.uint32], shift: Shift, replaced: Mapping[int, int]) -> None:
        nids = self._nids + shift.nid
        if replaced:
            old = np.array(sorted(replaced), dtype=np.int64)
            new = np.array([replaced[nid] for nid in old.tolist()], dtype=np.int64)
            place = np.minimum(np.searchsorted(old, self._nids), len(old) - 1)
            nids = np.where(old[place] == self._nids, new[place], nids)
        words[self._at >> 2] = nids & 0xFFFFFFFF
        words[(self._at >> 2) + 1] = nids >> 32

    def _move_addresses(self, words: NDArray[np.uint32], shift: Shift) -> None:
        inodes = self.inodes
        plain, inline = inodes.layout == Layout.FLAT_PLAIN, inodes.layout == Layout.FLAT_INLINE
        directory = inodes.kind == DIRECTORY
        in_data = plain & (inodes.kind == REGULAR) & (inodes.size > 0)
        in_metadata = plain & (directory | (inodes.kind == SYMLINK))
        in_metadata |= inline & directory & (inodes.size >= BLOCK_BYTES)
        at = (inodes.nid << SLOT_BITS) + _U_AT >> 2
        words[at[in_data]] += np.uint32(shift.data_blocks)
        words[at[in_metadata]] += np.uint32(shift.metadata_blocks)

    def _move_chunk_maps(self, words: NDArray[np.uint32], shift: Shift) -> None:
        inodes = self.inodes
        for number in np.flatnonzero(inodes.layout == Layout.CHUNK_BASED).tolist():
            chunk_bits = BLOCK_BITS + int(inodes.u[number])
            count = -(-int(inodes.size[number]) >> chunk_bits)
            start = int(inodes.head_end[number]) >> 2
            addresses = words[start : start + count]
            addresses[addresses != NULL_ADDRESS] += np.uint32(shift.data_blocks)


def _overlay_entries(body: bytes) -> list[int]:
    """Where in an xattr body entries of overlayfs begin."""
    found, offset = [], XATTR_HEADER_BYTES
    while offset < len(body):
        name_bytes, index, value_bytes = XATTR_ENTRY.unpack_from(body, offset)
        start = offset + XATTR_ENTRY.size
        if index == _TRUSTED and body[start : start + name_bytes].startswith(_OVERLAY):
            found.append(offset)
        offset = start + name_bytes + value_bytes
        offset += -offset % 4
    return found
