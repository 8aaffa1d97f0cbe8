"""EROFS on-disk structures, as far as CAFS writes and reads them; see ``docs/formats.md``.

Used by the writer, the reader and the checker in ``cafs.index``. Nothing here touches files.
Source of every field: Linux ``fs/erofs/erofs_fs.h``. CAFS uses a small part of the format: 4 KiB
blocks, extended inodes, no compression, inline xattrs.

Superblock, 128 bytes at byte 1024 of the image:

====== ==================== =====  ================================================
offset field                type   value
====== ==================== =====  ================================================
0      magic                u32    0xE0F5E1E2
4      checksum             u32    0, the feature is not declared
8      feature_compat       u32    2 (MTIME: inode times are modification times)
12     blkszbits            u8     12
13     sb_extslots          u8     0
14     root_nid             u16    nid of the root directory
16     inos                 u64    number of inodes
24     build_time           u64    0
32     build_time_nsec      u32    0
36     blocks               u32    blocks of the whole virtual image
40     meta_blkaddr         u32    0: nid * 32 is the inode's byte in the image
44     xattr_blkaddr        u32    0: no shared xattrs
48     uuid, volume_name    32 B   zeros
80     feature_incompat     u32    4 (CHUNKED_FILE) when a file is chunk-based, else 0
84     (compression, devices, long xattr prefixes, packed inode)  zeros
====== ==================== =====  ================================================

Extended inode, 64 bytes at nid * 32, followed by the xattr body, then by inline data or a chunk map:

====== ==================== =====  ================================================
offset field                type   value
====== ==================== =====  ================================================
0      i_format             u16    bit 0: extended; bits 1-3: ``Layout``
2      i_xattr_icount       u16    0, or (xattr body bytes - 12) / 4 + 1
4      i_mode               u16    as st_mode
6      i_reserved           u16    0
8      i_size               u64
16     i_u                  u32    block address, encoded device number, or chunk format
20     i_ino                u32    running number, for 32-bit stat only
24     i_uid, i_gid         2*u32
32     i_mtime              i64    seconds (the kernel reads it as signed)
40     i_mtime_nsec         u32
44     i_nlink              u32
48     reserved             16 B   zeros
====== ==================== =====  ================================================

Directory entry, 12 bytes: nid u64, nameoff u16 (from the start of its block), file_type u8, zero u8.
A directory block is the entries, then their names without terminators; the first nameoff tells the
number of entries. Xattr body: 12 bytes (name filter u32, shared count u8, 7 reserved; all zero),
then entries: name_len u8, name_index u8, value_size u16, name, value, padded to 4 bytes.
"""

from __future__ import annotations

import os
import stat
import struct
from enum import IntEnum

from cafs.core.posix_acl import is_acl
from cafs.errors import UsageError

BLOCK_BITS = 12
BLOCK_BYTES = 1 << BLOCK_BITS
SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_MAGIC = 0xE0F5E1E2
FEATURE_COMPAT_MTIME = 2
FEATURE_INCOMPAT_CHUNKED_FILE = 4

SUPERBLOCK = struct.Struct("<IIIBBHQQIIII32sI44s")
"""magic, checksum, feature_compat, blkszbits, extslots, root_nid, inos, build_time, build_time_nsec,
blocks, meta_blkaddr, xattr_blkaddr, uuid + volume name, feature_incompat, rest."""

SLOT_BITS = 5
SLOT_BYTES = 1 << SLOT_BITS
FIRST_INODE_OFFSET = SUPERBLOCK_OFFSET + SUPERBLOCK.size
"""Inodes may begin right behind the superblock."""

INODE = struct.Struct("<HHHHQIIIIqII16s")
"""format, xattr_icount, mode, reserved, size, u, ino, uid, gid, mtime, mtime_nsec, nlink, reserved."""
INODE_BYTES = INODE.size

DIRENT = struct.Struct("<QHBB")
"""nid, nameoff, file_type, reserved."""
DIRENT_BYTES = DIRENT.size
NAME_MAX_BYTES = 255
SYMLINK_MAX_BYTES = 4095
"""PATH_MAX of Linux without its NUL."""

CHUNK_BLKBITS_MASK = 0x1F
"""Low bits of a chunk-based inode's chunk format: log2(chunk bytes) - BLOCK_BITS."""
NULL_ADDRESS = 0xFFFFFFFF
"""In a chunk map: a hole."""
MAX_CHUNK_MAP_ENTRIES = 1 << 22
"""16 MiB of map for one sparse file; see ``sparse_granularity``."""

XATTR_HEADER_BYTES = 12
XATTR_ENTRY = struct.Struct("<BBH")
"""name_len, name_index, value_size."""
XATTR_MAX_VALUE_BYTES = 0xFFFF
XATTR_PREFIXES: tuple[tuple[int, bytes], ...] = (
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
)
"""(name_index, prefix). The two ACL indexes stand for the whole name."""
_PREFIX_OF_INDEX = dict(XATTR_PREFIXES)

OVERLAY_XATTRS = b"trusted.overlay."
"""Prefix of what overlayfs keeps to itself."""
OPAQUE_XATTR = (OVERLAY_XATTRS + b"opaque", b"y")
"""Marks a directory that hides the one below it, as overlayfs does."""


class Layout(IntEnum):
    """Where an inode's data lies."""

    FLAT_PLAIN = 0
    """One run of blocks at ``i_u``."""
    FLAT_INLINE = 2
    """Like FLAT_PLAIN, but the last, partial block follows the inode's xattrs."""
    CHUNK_BASED = 4
    """A map of block addresses, one u32 per chunk, follows the inode's xattrs."""


FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
"""``file_type`` of a directory entry by S_IFMT."""


def encode_device(rdev: int) -> int:
    """``os.makedev`` number to i_u (Linux ``new_encode_dev``).

    Raises:
        UsageError: major or minor is larger than Linux allows (12 and 20 bits).
    """
    major, minor = os.major(rdev), os.minor(rdev)
    if major >= 1 << 12 or minor >= 1 << 20:
        raise UsageError(f"device number {major}:{minor} is out of range")
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def decode_device(encoded: int) -> int:
    """i_u of a device inode to an ``os.makedev`` number."""
    return os.makedev((encoded >> 8) & 0xFFF, (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00))


def split_xattr_name(name: bytes) -> tuple[int, bytes] | None:
    """(name_index, rest of the name), or None when EROFS has no way to write ``name``."""
    for index, prefix in XATTR_PREFIXES:
        if not name.startswith(prefix):
            continue
        rest = name[len(prefix) :]
        if prefix.endswith(b".") == bool(rest) and len(rest) <= NAME_MAX_BYTES and b"\0" not in rest:
            return index, rest
    return None


def join_xattr_name(index: int, rest: bytes) -> bytes | None:
    """The full name, or None when the pair is not one that ``split_xattr_name`` makes."""
    prefix = _PREFIX_OF_INDEX.get(index)
    if prefix is None or prefix.endswith(b".") != bool(rest):
        return None
    return prefix + rest


def encode_xattrs(xattrs: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """The xattr body of an inode; empty without xattrs.

    Raises:
        UsageError: a name or value that EROFS cannot hold, or no kernel reads.
    """
    if not xattrs:
        return b""
    body = bytearray(XATTR_HEADER_BYTES)
    for name, value in xattrs:
        split = split_xattr_name(name)
        if split is None:
            raise UsageError(f"extended attribute {name!r} cannot be stored")
        if len(value) > XATTR_MAX_VALUE_BYTES:
            raise UsageError(f"extended attribute {name!r} has {len(value)} bytes, more than can be stored")
        index, rest = split
        if not rest and not is_acl(value):
            raise UsageError(f"extended attribute {name!r} is no ACL")
        body += XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
        body += bytes(-len(body) % 4)
    if xattr_count(len(body)) > 0xFFFF:
        raise UsageError(f"extended attributes of {len(body)} bytes are more than can be stored")
    return bytes(body)


def xattr_count(body_bytes: int) -> int:
    """i_xattr_icount of an xattr body."""
    return (body_bytes - XATTR_HEADER_BYTES) // 4 + 1 if body_bytes else 0


def xattr_body_bytes(icount: int) -> int:
    """Size of the xattr body that i_xattr_icount declares."""
    return XATTR_HEADER_BYTES + 4 * (icount - 1) if icount else 0


def sparse_granularity(size: int) -> int:
    """What the extents of a sparse file of ``size`` bytes must be padded out to (with zeros).

    A chunk map has an entry for every chunk of the whole file, holes too; coarser chunks for large
    files keep it small (at most 2^20 entries, 4 MiB) whatever size a tar header claims.
    """
    return max(BLOCK_BYTES, 1 << max(0, (size - 1) >> 20).bit_length())
