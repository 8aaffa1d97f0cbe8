"""Parses what the kernel writes to a FUSE device. Pure: bytes in, one record out.

Used by ``session``. Only requests that a read-only tree answers get a record of their own;
every other one becomes ``Refused`` with the errno it is due. The kernel is trusted not to lie, yet a
malformed request raises ``ProtocolError`` and nothing else, so that the session can answer EIO.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from cafs.errors import ProtocolError
from cafs.fuse import abi
from cafs.fuse.abi import Opcode

HEADER_BYTES = abi.IN_HEADER.size
MAX_NAME_BYTES = 255


class Lookup(NamedTuple):
    """Find ``name`` in the directory ``nodeid``."""

    unique: int
    nodeid: int
    name: bytes


class Forget(NamedTuple):
    """The kernel has let go of these inodes. Never answered; our node ids mean the same for ever."""

    unique: int
    nodes: tuple[tuple[int, int], ...]
    """(node id, how many of its lookups this takes back)."""


class GetAttr(NamedTuple):
    """Attributes of ``nodeid``."""

    unique: int
    nodeid: int


class ReadLink(NamedTuple):
    """Target of the symlink ``nodeid``."""

    unique: int
    nodeid: int


class Read(NamedTuple):
    """``size`` bytes from ``offset`` of ``nodeid``, for the thread ``pid`` (0: another pid namespace)."""

    unique: int
    nodeid: int
    offset: int
    size: int
    pid: int


class ReadDir(NamedTuple):
    """At most ``size`` bytes of records from cookie ``offset``; ``plus``: each with its entry."""

    unique: int
    nodeid: int
    offset: int
    size: int
    plus: bool


class Open(NamedTuple):
    """The file ``nodeid`` is opened."""

    unique: int
    nodeid: int


class GetXattr(NamedTuple):
    """Value of the attribute ``name``; ``size`` 0 asks only how long it is."""

    unique: int
    nodeid: int
    size: int
    name: bytes


class ListXattr(NamedTuple):
    """Names of all attributes; ``size`` 0 asks only how long the list is."""

    unique: int
    nodeid: int
    size: int


class StatFs(NamedTuple):
    """Sizes of the whole filesystem."""

    unique: int


class Interrupt(NamedTuple):
    """Whoever waits for the request ``target`` got a signal. Never answered itself."""

    unique: int
    target: int


class Done(NamedTuple):
    """A request whose answer is an empty success: releasing what an opening has left nothing of."""

    unique: int


class Refused(NamedTuple):
    """A request that always fails with ``error``. ENOSYS also tells the kernel never to ask again."""

    unique: int
    opcode: int
    error: int


Request = (
    Lookup | Forget | GetAttr | ReadLink | Open | Read | ReadDir
    | GetXattr | ListXattr | StatFs | Interrupt | Done | Refused
)  # fmt: skip


def parse_request(message: memoryview) -> Request:
    """Parse one message as read from the device.

    Args:
        message: Exactly the bytes of one read. Nothing of it is kept.

    Raises:
        ProtocolError: it is not a well-formed request.
    """
    if len(message) < HEADER_BYTES:
        raise ProtocolError(f"FUSE request of {len(message)} bytes is shorter than its header")
    length, opcode, unique, nodeid, _uid, _gid, pid, _ext, _pad = abi.IN_HEADER.unpack_from(message)
    if length != len(message):
        raise ProtocolError(f"FUSE request says {length} bytes, {len(message)} came")
    parser = _PARSERS.get(opcode)
    if parser is None:
        error = errno.EROFS if opcode in abi.WRITING else errno.ENOSYS
        return Refused(unique, opcode, error)
    return parser(unique, nodeid, pid, message)


def peek_unique(message: memoryview) -> int | None:
    """The ``unique`` of a message that ``parse_request`` refused, to answer it; None without a header."""
    if len(message) < HEADER_BYTES:
        return None
    return int(abi.IN_HEADER.unpack_from(message)[2])


def _name(message: memoryview, start: int) -> bytes:
    """The NUL-terminated string that fills the rest of the message."""
    raw = bytes(message[start:])
    name, terminator, _rest = raw.partition(b"\0")
    if not terminator or not name:
        raise ProtocolError("FUSE request with an empty name, or one without its end")
    return name


def _need(message: memoryview, body_bytes: int) -> None:
    if len(message) < HEADER_BYTES + body_bytes:
        raise ProtocolError(f"FUSE request of {len(message)} bytes lacks a part of its body")


def _parse_lookup(unique: int, nodeid: int, _pid: int, message: memoryview) -> Lookup | Refused:
    name = _name(message, HEADER_BYTES)
    if len(name) > MAX_NAME_BYTES:
        return Refused(unique, Opcode.LOOKUP, errno.ENAMETOOLONG)
    return Lookup(unique, nodeid, name)


def _parse_forget(unique: int, nodeid: int, _pid: int, message: memoryview) -> Forget:
    _need(message, abi.FORGET_IN.size)
    return Forget(unique, ((nodeid, abi.FORGET_IN.unpack_from(message, HEADER_BYTES)[0]),))


def _parse_batch_forget(unique: int, _nodeid: int, _pid: int, message: memoryview) -> Forget:
    begin = HEADER_BYTES + abi.BATCH_FORGET_IN.size
    _need(message, abi.BATCH_FORGET_IN.size)
    count, _padding = abi.BATCH_FORGET_IN.unpack_from(message, HEADER_BYTES)
    wanted = count * abi.FORGET_ONE.size
    _need(message, abi.BATCH_FORGET_IN.size + wanted)
    return Forget(unique, tuple(abi.FORGET_ONE.iter_unpack(message[begin : begin + wanted])))


def _parse_getattr(unique: int, nodeid: int, _pid: int, _message: memoryview) -> GetAttr:
    return GetAttr(unique, nodeid)


def _parse_readlink(unique: int, nodeid: int, _pid: int, _message: memoryview) -> ReadLink:
    return ReadLink(unique, nodeid)


def _parse_open(unique: int, nodeid: int, _pid: int, _message: memoryview) -> Open:
    return Open(unique, nodeid)


def _parse_read(unique: int, nodeid: int, pid: int, message: memoryview) -> Read:
    _need(message, abi.READ_IN.size)
    _fh, offset, size, *_rest = abi.READ_IN.unpack_from(message, HEADER_BYTES)
    return Read(unique, nodeid, offset, size, pid)


def _parse_readdir(unique: int, nodeid: int, _pid: int, message: memoryview) -> ReadDir:
    _need(message, abi.READ_IN.size)
    _fh, offset, size, *_rest = abi.READ_IN.unpack_from(message, HEADER_BYTES)
    return ReadDir(unique, nodeid, offset, size, plus=False)


def _parse_readdirplus(unique: int, nodeid: int, pid: int, message: memoryview) -> ReadDir:
    return _parse_readdir(unique, nodeid, pid, message)._replace(plus=True)


def _parse_getxattr(unique: int, nodeid: int, _pid: int, message: memoryview) -> GetXattr:
    _need(message, abi.XATTR_IN.size)
    size, _padding = abi.XATTR_IN.unpack_from(message, HEADER_BYTES)
    return GetXattr(unique, nodeid, size, _name(message, HEADER_BYTES + abi.XATTR_IN.size))


def _parse_listxattr(unique: int, nodeid: int, _pid: int, message: memoryview) -> ListXattr:
    _need(message, abi.XATTR_IN.size)
    size, _padding = abi.XATTR_IN.unpack_from(message, HEADER_BYTES)
    return ListXattr(unique, nodeid, size)


def _parse_statfs(unique: int, _nodeid: int, _pid: int, _message: memoryview) -> StatFs:
    return StatFs(unique)


def _parse_interrupt(unique: int, _nodeid: int, _pid: int, message: memoryview) -> Interrupt:
    _need(message, abi.INTERRUPT_IN.size)
    return Interrupt(unique, abi.INTERRUPT_IN.unpack_from(message, HEADER_BYTES)[0])


def _parse_done(unique: int, _nodeid: int, _pid: int, _message: memoryview) -> Done:
    return Done(unique)


_PARSERS: dict[int, Callable[[int, int, int, memoryview], Request]] = {
    Opcode.LOOKUP: _parse_lookup,
    Opcode.FORGET: _parse_forget,
    Opcode.BATCH_FORGET: _parse_batch_forget,
    Opcode.GETATTR: _parse_getattr,
    Opcode.READLINK: _parse_readlink,
    Opcode.OPEN: _parse_open,
    Opcode.READ: _parse_read,
    Opcode.READDIR: _parse_readdir,
    Opcode.READDIRPLUS: _parse_readdirplus,
    Opcode.GETXATTR: _parse_getxattr,
    Opcode.LISTXATTR: _parse_listxattr,
    Opcode.STATFS: _parse_statfs,
    Opcode.INTERRUPT: _parse_interrupt,
    Opcode.RELEASE: _parse_done,
    Opcode.RELEASEDIR: _parse_done,
    Opcode.DESTROY: _parse_done,
}
