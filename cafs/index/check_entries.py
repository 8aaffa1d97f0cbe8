"""Checks directory blocks in bulk: offsets, names and their order; part of ``check_index``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafs.core.erofs import DIRENT_BYTES, NAME_MAX_BYTES
from cafs.errors import IntegrityError
from cafs.index.check_inodes import InodeChecker
from cafs.index.region_columns import DIRECTORY, BlockBatch, Bools, Inodes, Ints, flat_ranges

_DOT, _SLASH = ord("."), ord("/")
_WORD = 8
"""Names are compared by words of so many bytes."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Directory entries; ``directory`` is the number of the directory in its level."""

    directory: Ints
    nid: Ints
    kind: Ints
    name_start: Ints
    name_bytes: Ints

    def only(self, which: Bools) -> Entries:
        """Some of them."""
        columns = (self.directory, self.nid, self.kind, self.name_start, self.name_bytes)
        return Entries(*(column[which] for column in columns))


class EntryChecker:
    """Made once per region."""

    def __init__(self, inodes: InodeChecker) -> None:
        self._inodes = inodes

    def start_level(self, directories: Inodes, parents: Ints) -> LevelEntries:
        """For the directories of one level, whose blocks come in order."""
        return LevelEntries(self._inodes, directories, parents)


class LevelEntries:
    """The entries of one level of directories, batch by batch."""

    def __init__(self, inodes: InodeChecker, directories: Inodes, parents: Ints) -> None:
        self._inodes = inodes
        self._region = inodes.region
        self._directories = directories
        self._parents = parents
        self._dots = np.zeros(len(directories.nid), dtype=np.int64)
        self._last: Entries | None = None

    def check(self, blocks: BlockBatch) -> Entries:
        """Check a batch of blocks; its entries without ``.`` and ``..``.

        Raises:
            IntegrityError: naming the directory.
        """
        entries = self._parse(blocks)
        self._check_names(entries)
        self._check_order(entries)
        return self._check_dots(entries)

    def finish(self) -> None:
        """After the last batch: every directory had its ``.`` and ``..``."""
        self._directories.refuse(self._dots != 2, "is a directory without '.' or '..'")

    def _parse(self, blocks: BlockBatch) -> Entries:
        self._refuse(blocks.length < DIRENT_BYTES, blocks.directory, "has a block of too few bytes")
        names_at = self._u16(blocks.start + 8)
        bad = (names_at % DIRENT_BYTES != 0) | (names_at == 0) | (names_at >= blocks.length)
        self._refuse(bad, blocks.directory, "has a block with an impossible number of entries")
        count = names_at // DIRENT_BYTES
        block = np.repeat(np.arange(len(blocks), dtype=np.int64), count)
        number = flat_ranges(np.zeros(len(blocks), dtype=np.int64), count)
        at = blocks.start[block] + number * DIRENT_BYTES
        directory = blocks.directory[block]
        start = self._u16(at + 8)
        stop = np.empty_like(start)
        stop[:-1] = start[1:]
        last = np.cumsum(count) - 1
        stop[last] = self._end_of_last(blocks, start[last])
        length = stop - start
        bad = (start < names_at[block]) | (stop > blocks.length[block]) | (length < 1)
        self._refuse(bad, directory, "has a name outside its block, or an empty one")
        self._refuse(length > NAME_MAX_BYTES, directory, "has a name that is too long")
        firsts = last - count + 1
        self._refuse(start[firsts] != names_at, blocks.directory, "has a gap before its names")
        self._refuse(self._region[at + 11] != 0, directory, "has an entry with reserved bits")
        kind = self._region[at + 10].astype(np.int64)
        return Entries(directory, self._u64(at, directory), kind, blocks.start[block] + start, length)

    def _end_of_last(self, blocks: BlockBatch, start: Ints) -> Ints:
        """The last name of a block ends with the block or at the first NUL."""
        room = np.clip(blocks.length - start, 0, NAME_MAX_BYTES + 1)
        columns = np.arange(NAME_MAX_BYTES + 1, dtype=np.int64)
        where = np.minimum((blocks.start + start)[:, None] + columns, len(self._region) - 1)
        stops = (self._region[where] == 0) | (columns >= room[:, None])
        length = np.where(stops.any(axis=1), np.argmax(stops, axis=1), NAME_MAX_BYTES + 1)
        end: Ints = start + length
        return end

    def _check_names(self, entries: Entries) -> None:
        bad = self._inodes.any_byte_of(entries.name_start, entries.name_bytes, (0, _SLASH))
        self._refuse(bad, entries.directory, "has a name with a '/' or a NUL in it")

    def _check_order(self, entries: Entries) -> None:
        """Names of a directory ascend strictly, over its blocks and over batches."""
        joined = entries
        if self._last is not None:
            pairs = zip(_columns(self._last), _columns(entries), strict=True)
            joined = Entries(*(np.concatenate(pair) for pair in pairs))
        self._last = entries.only(np.arange(len(entries.nid)) == len(entries.nid) - 1)
        same = np.flatnonzero(joined.directory[:-1] == joined.directory[1:])
        for word in range(NAME_MAX_BYTES // _WORD + 1):
            one, two = self._words(joined, same, word), self._words(joined, same + 1, word)
            self._refuse(one > two, joined.directory[same], "has names out of order")
            same = same[one == two]
            done = np.maximum(joined.name_bytes[same], joined.name_bytes[same + 1]) <= (word + 1) * _WORD
            self._refuse(done, joined.directory[same], "has a name twice")
            if not len(same):
                return

    def _words(self, entries: Entries, which: Ints, word: int) -> NDArray[np.uint64]:
        """Bytes word * 8 ... of some names, as numbers that compare as the bytes do."""
        columns = np.arange(word * _WORD, (word + 1) * _WORD, dtype=np.int64)
        where = np.minimum(entries.name_start[which][:, None] + columns, len(self._region) - 1)
        letters = np.where(columns < entries.name_bytes[which][:, None], self._region[where], 0)
        big_endian = np.ascontiguousarray(letters, dtype=np.uint8).view(">u8").reshape(-1)
        words: NDArray[np.uint64] = big_endian.astype(np.uint64)
        return words

    def _check_dots(self, entries: Entries) -> Entries:
        first = self._region[entries.name_start] == _DOT
        second = self._region[np.minimum(entries.name_start + 1, len(self._region) - 1)] == _DOT
        itself = first & (entries.name_bytes == 1)
        parent = first & second & (entries.name_bytes == 2)
        directory = entries.directory
        wrong = itself & (entries.nid != self._directories.nid[directory])
        wrong |= parent & (entries.nid != self._parents[directory])
        wrong |= (itself | parent) & (entries.kind != DIRECTORY)
        self._refuse(wrong, directory, "has a '.' or '..' that leads elsewhere")
        np.add.at(self._dots, directory[itself | parent], 1)
        return entries.only(~(itself | parent))

    def _u16(self, at: Ints) -> Ints:
        value: Ints = self._region[at].astype(np.int64) | self._region[at + 1].astype(np.int64) << 8
        return value

    def _u64(self, at: Ints, directory: Ints) -> Ints:
        raw = self._region[at[:, None] + np.arange(8, dtype=np.int64)].view("<u8").reshape(-1)
        self._refuse(raw >= 1 << 48, directory, "names an inode outside the metadata region")
        value: Ints = raw.astype(np.int64)
        return value

    def _refuse(self, bad: Bools, directory: Ints, what: str) -> None:
        if bad.any():
            nid = int(self._directories.nid[directory[np.argmax(bad)]])
            raise IntegrityError(f"directory inode {nid} {what}")


def _columns(entries: Entries) -> tuple[Ints, ...]:
    return (entries.directory, entries.nid, entries.kind, entries.name_start, entries.name_bytes)
