"""What a layer says of one inode, whoever said it: a tar header, a directory on disk, an index."""

from __future__ import annotations

import stat
from dataclasses import dataclass

S_IFMT_TYPES = frozenset(
    (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
)


@dataclass(frozen=True, slots=True)
class Meta:
    """Everything of an inode but its name, its content and its links."""

    mode: int
    """Type and permission bits, as in ``st_mode``."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    """Nanoseconds since 1970; negative before it."""
    rdev: int = 0
    """``os.makedev`` number, devices only."""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    """(full name such as ``b"user.x"``, value), sorted by name."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of file bytes in the layer's data region. What no extent covers is a hole (zeros)."""

    file_offset: int
    data_offset: int
    """Relative to the start of the data region; the first extent's is a multiple of 4096."""
    length: int
