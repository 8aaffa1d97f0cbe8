"""Walks the directories of a metadata region level by level and checks them; part of ``check_index``."""

from __future__ import annotations

import numpy as np

from cafs.core.erofs import BLOCK_BITS, FIRST_INODE_OFFSET, SLOT_BITS
from cafs.errors import IntegrityError
from cafs.index.check_entries import Entries, EntryChecker
from cafs.index.check_inodes import InodeChecker
from cafs.index.region_columns import (
    DIRECTORY,
    KIND_OF_MODE,
    BlockBatch,
    Bools,
    Inodes,
    Ints,
    directory_blocks,
    outside_blocks,
    sorted_once,
)

MAX_DEPTH = 2048
"""Levels of directories: a path of PATH_MAX bytes cannot have more."""
_BATCH_BLOCKS = 128


def check_tree(
    metadata: memoryview, virtual_bytes: int, *, root_nid: int, inode_count: int, chunk_maps: bool
) -> bool:
    """Check every inode and directory entry that the root leads to.

    Returns:
        Whether the layer holds whiteouts or attributes of overlayfs.

    Raises:
        IntegrityError: saying what is wrong with which inode.
    """
    checker = InodeChecker(metadata, virtual_bytes, chunk_maps)
    walk = _Walk(checker)
    walk.run(root_nid)
    found = int(walk.seen.sum())
    if found != inode_count:
        raise IntegrityError(f"the tree has {found} inodes, the header counts {inode_count}")
    return checker.hides


class _Walk:
    def __init__(self, checker: InodeChecker) -> None:
        self._checker = checker
        self._entries = EntryChecker(checker)
        self.seen = np.zeros(checker.slot_count, dtype=np.bool_)
        self._links = np.zeros(checker.slot_count, dtype=np.int64)
        """Names of a file; subdirectories of a directory."""

    def run(self, root_nid: int) -> None:
        """Walk everything, then compare link counts."""
        nids = np.array([root_nid], dtype=np.int64)
        self._check_bounds(nids, np.array([root_nid], dtype=np.int64))
        level = self._checker.check(nids)
        level.refuse(level.kind != DIRECTORY, "is the root, but no directory")
        self.seen[nids] = True
        parents = nids
        for _ in range(MAX_DEPTH):
            level, parents = self._step(level, parents)
            if not len(level.nid):
                break
        else:
            raise IntegrityError(f"directories are more than {MAX_DEPTH} levels deep")
        self._check_links()

    def _step(self, directories: Inodes, parents: Ints) -> tuple[Inodes, Ints]:
        """Check all entries of one level of directories; the directories below, and their parents."""
        blocks = self._blocks_of(directories)
        found: list[tuple[Ints, Ints]] = []
        state = self._entries.start_level(directories, parents)
        for first in range(0, len(blocks), _BATCH_BLOCKS):
            entries = state.check(blocks.part(first, first + _BATCH_BLOCKS))
            found.append(self._check_children(directories, entries))
        state.finish()
        nids = np.concatenate([nid for nid, _ in found])
        owners = np.concatenate([owner for _, owner in found])
        return self._checker.load(nids), owners

    def _check_children(self, directories: Inodes, entries: Entries) -> tuple[Ints, Ints]:
        """(nid, parent's nid) of the directories among a batch of entries."""
        nids, owners = entries.nid, directories.nid[entries.directory]
        self._check_bounds(nids, owners)
        modes = self._checker.modes(nids)
        wrong = KIND_OF_MODE[modes >> 12] != entries.kind
        _refuse(wrong, owners, "has an entry whose type is not its inode's")
        is_directory = entries.kind == DIRECTORY
        below, below_owners = nids[is_directory], owners[is_directory]
        _refuse(self.seen[below], below_owners, "has a subdirectory that another directory has too")
        if len(sorted_once(below)) != len(below):
            raise IntegrityError(f"directory inode {int(owners[0])} and its siblings name a directory twice")
        np.add.at(self._links, below_owners, 1)
        np.add.at(self._links, nids[~is_directory], 1)
        fresh = sorted_once(nids[~self.seen[nids]])
        self.seen[fresh] = True
        if len(fresh):
            self._checker.check(fresh)
        return below, below_owners

    def _check_bounds(self, nids: Ints, owners: Ints) -> None:
        first = FIRST_INODE_OFFSET >> SLOT_BITS
        outside = (nids < first) | (nids > self._checker.slot_count - 2)
        _refuse(outside, owners, "names an inode outside the metadata region")

    def _blocks_of(self, directories: Inodes) -> BlockBatch:
        """Every block of every directory, in order."""
        outside_count = outside_blocks(directories)
        with_blocks = outside_count > 0
        if int(outside_count.sum()) > len(self._checker.region) >> BLOCK_BITS:
            raise IntegrityError("directories overlap: together they are larger than the metadata region")
        self._checker.claim_blocks(
            directories.only(with_blocks), directories.u[with_blocks], outside_count[with_blocks]
        )
        return directory_blocks(directories)

    def _check_links(self) -> None:
        nids = np.flatnonzero(self.seen)
        inodes = self._checker.load(nids)
        expected = self._links[nids] + np.where(inodes.kind == DIRECTORY, 2, 0)
        inodes.refuse(inodes.nlink != expected, "has a link count that is not the number of its names")


def _refuse(bad: Bools, owners: Ints, what: str) -> None:
    if bad.any():
        raise IntegrityError(f"directory inode {int(owners[np.argmax(bad)])} {what}")
