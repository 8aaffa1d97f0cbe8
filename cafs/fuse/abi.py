"""The kernel's FUSE ABI as constants and structs. Pure; used by ``protocol``, ``replies``, ``handshake``.

Source: include/uapi/linux/fuse.h, versions 7.31 (Linux 5.4) to 7.44. Everything is in the byte order
of the machine, padded to 64 bits, so ``=`` structs describe it exactly.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

KERNEL_MAJOR = 7
KERNEL_MINOR = 41
"""The newest minor whose structs we know; the smaller of ours and the kernel's is spoken."""
OLDEST_MINOR = 31
"""Linux 5.4: FOPEN_CACHE_DIR, MAX_PAGES and CACHE_SYMLINKS are all older."""

ROOT_ID = 1


class Opcode(IntEnum):
    """``enum fuse_opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


WRITING = frozenset(
    {
        Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR,
        Opcode.RENAME, Opcode.RENAME2, Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR,
        Opcode.CREATE, Opcode.FALLOCATE, Opcode.COPY_FILE_RANGE, Opcode.TMPFILE,
    }
)  # fmt: skip
"""Requests that would change the tree: all answered EROFS."""

# FUSE_INIT flags; bits 32 and up travel in ``flags2`` and need INIT_EXT.
ASYNC_READ = 1 << 0
EXPORT_SUPPORT = 1 << 4
DO_READDIRPLUS = 1 << 13
ASYNC_DIO = 1 << 15
NO_OPEN_SUPPORT = 1 << 17
PARALLEL_DIROPS = 1 << 18
POSIX_ACL = 1 << 20
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
NO_OPENDIR_SUPPORT = 1 << 24
INIT_EXT = 1 << 30
HAS_RESEND = 1 << 39
ALLOW_IDMAP = 1 << 40

NOTIFY_RESEND = 7
"""``enum fuse_notify_code``; sent with ``unique`` 0 and no body, Linux 6.9 and later."""

IN_HEADER = Struct("=IIQQIIIHH")
"""fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""
OUT_HEADER = Struct("=IiQ")
"""fuse_out_header: len (of all), error (0 or -errno; a notify code when unique is 0), unique."""

INIT_IN = Struct("=IIII")
"""fuse_init_in as far as every kernel sends it: major, minor, max_readahead, flags."""
INIT_IN_FLAGS2 = Struct("=I")
"""flags2, right behind, with INIT_EXT (7.36)."""
INIT_OUT = Struct("=IIIIHHIIHHI28x")
"""fuse_init_out: major, minor, max_readahead, flags, max_background, congestion_threshold, max_write,
time_gran, max_pages, map_alignment, flags2, reserved."""

ATTR = Struct("=QQQQQQIIIIIIIIII")
"""fuse_attr: ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink,
uid, gid, rdev, blksize, flags. The times are the two's complement of signed seconds."""
ATTR_OUT_HEAD = Struct("=QII")
"""fuse_attr_out before its fuse_attr: attr_valid, attr_valid_nsec, padding."""
ENTRY_HEAD = Struct("=QQQQII")
"""fuse_entry_out before its fuse_attr: nodeid, generation, entry_valid, attr_valid, and their nsec."""
DIRENT = Struct("=QQII")
"""fuse_dirent before the name: ino, off (cookie of the *next* entry), namelen, type (mode >> 12).
Names are padded to 8 bytes."""
OPEN_OUT = Struct("=QII")
"""fuse_open_out: fh, open_flags, padding (backing_id from 7.40)."""
FOPEN_DIRECT_IO = 1 << 0
"""In open_flags: reads do not go through the page cache of the file."""
STATFS_OUT = Struct("=QQQQQIIII24x")
"""fuse_kstatfs: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare."""
XATTR_SIZE_OUT = Struct("=II")
"""fuse_getxattr_out: size, padding; the answer to a request with size 0."""

READ_IN = Struct("=QQIIQII")
"""fuse_read_in, for READ, READDIR and READDIRPLUS: fh, offset, size, read_flags, lock_owner, flags,
padding."""
XATTR_IN = Struct("=II")
"""fuse_getxattr_in: size of the caller's buffer (0 asks for the size), padding; then the name."""
FORGET_IN = Struct("=Q")
"""fuse_forget_in: how often it had been looked up."""
BATCH_FORGET_IN = Struct("=II")
"""fuse_batch_forget_in: count, padding; so many FORGET_ONE follow."""
FORGET_ONE = Struct("=QQ")
"""fuse_forget_one: node id, how often it had been looked up."""
INTERRUPT_IN = Struct("=Q")
"""fuse_interrupt_in: unique of the request to interrupt."""
