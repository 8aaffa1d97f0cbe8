"""Encodes what a FUSE server answers. Pure; used by the trees and by ``session``.

A tree hands out encoded attributes, so that a directory of ten thousand entries is encoded once and
then served by slicing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cafs.fuse import abi

FOREVER_S = 10 * 365 * 24 * 3600
"""Names and attributes never change while mounted. The kernel caps it to its own longest timeout."""
BLOCK_BYTES = 4096

_ATTR_VALID = abi.ATTR_OUT_HEAD.pack(FOREVER_S, 0, 0)
_NO_ENTRY = abi.ENTRY_HEAD.pack(0, 0, FOREVER_S, 0, 0, 0) + bytes(abi.ATTR.size)
_UNKNOWN_ENTRY = bytes(abi.ENTRY_HEAD.size + abi.ATTR.size)
"""A name without an entry, which the kernel does not remember: it will ask again."""
_U64 = (1 << 64) - 1


def encode_attr(
    *, ino: int, size: int, mode: int, nlink: int, uid: int, gid: int, mtime_ns: int, rdev: int = 0
) -> bytes:
    """One ``fuse_attr``; all three times are ``mtime_ns``, as EROFS shows them.

    The low 32 bits of an ``os.makedev`` number are the kernel's own encoding of a device number.
    """
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    seconds &= _U64
    blocks = (size + BLOCK_BYTES - 1) // BLOCK_BYTES * (BLOCK_BYTES // 512)
    return abi.ATTR.pack(
        ino, size, blocks, seconds, seconds, seconds, nanoseconds, nanoseconds, nanoseconds,
        mode, nlink, uid, gid, rdev & 0xFFFFFFFF, BLOCK_BYTES, 0,
    )  # fmt: skip


def encode_attr_out(attr: bytes) -> bytes:
    """Answer to GETATTR."""
    return _ATTR_VALID + attr


def encode_entry(nodeid: int, attr: bytes) -> bytes:
    """Answer to LOOKUP."""
    return abi.ENTRY_HEAD.pack(nodeid, 0, FOREVER_S, FOREVER_S, 0, 0) + attr


def encode_passing_entry(nodeid: int, attr: bytes) -> bytes:
    """The same for a name that may go: the kernel asks anew for each use of the name."""
    return abi.ENTRY_HEAD.pack(nodeid, 0, 0, FOREVER_S, 0, 0) + attr


def encode_passing_absence() -> bytes:
    """Answer to LOOKUP for a name that is not there and may come."""
    return _UNKNOWN_ENTRY


def encode_no_entry() -> bytes:
    """Answer to LOOKUP that lets the kernel remember that the name does not exist."""
    return _NO_ENTRY


def encode_statfs(total_bytes: int, files: int) -> bytes:
    """Answer to STATFS of a full, read-only filesystem."""
    blocks = (total_bytes + BLOCK_BYTES - 1) // BLOCK_BYTES
    return abi.STATFS_OUT.pack(blocks, 0, 0, files, 0, BLOCK_BYTES, 255, BLOCK_BYTES, 0)


def encode_xattr_size(size: int) -> bytes:
    """Answer to GETXATTR and LISTXATTR that only asked for the size."""
    return abi.XATTR_SIZE_OUT.pack(size, 0)


def encode_opened(flags: int) -> bytes:
    """Answer to OPEN: ``abi.FOPEN_...``. There are no file handles."""
    return abi.OPEN_OUT.pack(0, flags, 0)


def encode_error(unique: int, error: int) -> bytes:
    """A whole answer that is an errno."""
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size, -error, unique)


def encode_success(unique: int, body_bytes: int) -> bytes:
    """The header before ``body_bytes`` of answer."""
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + body_bytes, 0, unique)


def encode_resend() -> bytes:
    """The notification that makes the kernel queue every unanswered request again."""
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size, abi.NOTIFY_RESEND, 0)


class DirectoryEntry(NamedTuple):
    """One name of a directory, ready to be sent."""

    name: bytes
    nodeid: int
    attr: bytes
    """Encoded ``fuse_attr``; empty for ``.`` and ``..``, which the kernel does not remember."""
    ino: int
    type: int
    """``mode >> 12``, as in a dirent."""


class Listing(NamedTuple):
    """A whole directory as READDIRPLUS records. The cookie of an entry is its position."""

    records: bytes
    ends: Sequence[int]
    """Where each record ends in ``records``."""

    def chunk(self, cookie: int, size: int) -> memoryview:
        """As many whole records from ``cookie`` as fit into ``size`` bytes; empty at the end."""
        if cookie >= len(self.ends):
            return memoryview(b"")
        start = self.ends[cookie - 1] if cookie > 0 else 0
        last = bisect_right(self.ends, start + size) - 1
        return memoryview(self.records)[start : self.ends[last] if last >= cookie else start]

    def plain_chunk(self, cookie: int, size: int) -> bytes:
        """The same as READDIR records: without the entries."""
        skip = abi.ENTRY_HEAD.size + abi.ATTR.size
        pieces: list[bytes] = []
        used = 0
        for position in range(cookie, len(self.ends)):
            start = self.ends[position - 1] if position else 0
            record = self.records[start + skip : self.ends[position]]
            used += len(record)
            if used > size:
                break
            pieces.append(record)
        return b"".join(pieces)


def encode_listing(entries: Iterable[DirectoryEntry], first_cookie: int = 0) -> Listing:
    """Encode (the part from ``first_cookie`` of) a directory for all later READDIR(PLUS) requests."""
    records = bytearray()
    ends: list[int] = []
    for cookie, entry in enumerate(entries, first_cookie + 1):
        if entry.attr:
            records += encode_entry(entry.nodeid, entry.attr)
        else:
            records += _UNKNOWN_ENTRY
        records += abi.DIRENT.pack(entry.ino, cookie, len(entry.name), entry.type)
        records += entry.name
        records += bytes(-len(entry.name) & 7)
        ends.append(len(records))
    return Listing(bytes(records), ends)
