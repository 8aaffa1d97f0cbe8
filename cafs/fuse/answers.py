"""From a request to its answer, for everything that needs no waiting. Pure apart from the tree's reads.

``answer`` is the one place that knows how each FUSE request is mapped onto a ``FileTree``; the session
round it only moves bytes. ``errno_of`` is the one table from errors to errnos.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from cafs.errors import (
    CafsError,
    DeadlineError,
    IntegrityError,
    NotFoundError,
    RemoteError,
    StorageError,
    UsageError,
)
from cafs.fuse import protocol, replies
from cafs.fuse.tree import Buffer, FileTree

MAX_XATTR_LIST_BYTES = 65536
"""XATTR_LIST_MAX: the kernel refuses longer ones with E2BIG."""

_ERRNO_OF: tuple[tuple[type[Exception], int], ...] = (
    (DeadlineError, errno.ETIMEDOUT),
    (NotFoundError, errno.EIO),
    (IntegrityError, errno.EIO),
    (RemoteError, errno.EIO),
    (StorageError, errno.EIO),
    (UsageError, errno.EINVAL),
    (CafsError, errno.EIO),
    (MemoryError, errno.ENOMEM),
)


class NoSuchNodeError(NotFoundError):
    """A node id that the tree does not have: ESTALE, while a chunk that is nowhere is EIO."""


class WrongKindError(CafsError):
    """A request that does not fit the kind of the node."""

    def __init__(self, error: int, message: str) -> None:
        super().__init__(message)
        self.error = error


def errno_of(failure: BaseException) -> int:
    """The errno a reader gets for ``failure``; EIO for whatever nobody thought of."""
    if isinstance(failure, WrongKindError):
        return failure.error
    if isinstance(failure, NoSuchNodeError):
        return errno.ESTALE
    for kind, error in _ERRNO_OF:
        if isinstance(failure, kind):
            return error
    return errno.EIO


def answer(  # noqa: PLR0911, PLR0912  one return for each form an answer takes
    tree: FileTree, request: protocol.Request
) -> Sequence[Buffer] | None:
    """All pieces of the answer, header first.

    Returns:
        None for a request that is not answered at all, an empty sequence for a read whose bytes are
        not in memory yet.

    Raises:
        Exception: whatever the tree raised; ``errno_of`` translates it.
    """
    match request:
        case protocol.Read(unique, node, offset, size):
            pieces = tree.try_read(node, offset, size)
            return () if pieces is None else read_reply(unique, pieces)
        case protocol.Lookup(unique, node, name):
            body = tree.lookup(node, name) or replies.encode_no_entry()
        case protocol.GetAttr(unique, node):
            body = replies.encode_attr_out(tree.attributes(node))
        case protocol.Open(unique, node):
            flags = tree.open_flags(node)
            if flags is None:
                return (replies.encode_error(unique, errno.ENOSYS),)  # the kernel will never ask again
            body = replies.encode_opened(flags)
        case protocol.ReadDir(unique, node, offset, size, plus):
            listing = tree.listing(node)
            chunk = listing.chunk(offset, size) if plus else listing.plain_chunk(offset, size)
            return replies.encode_success(unique, len(chunk)), chunk
        case protocol.ReadLink(unique, node):
            body = tree.symlink_target(node)
        case protocol.GetXattr(unique, node, size, name):
            return _xattr_reply(unique, size, tree.xattr(node, name))
        case protocol.ListXattr(unique, node, size):
            names = b"".join(name + b"\0" for name in tree.xattr_names(node))
            return _sized_reply(unique, size, names, too_long=len(names) > MAX_XATTR_LIST_BYTES)
        case protocol.StatFs(unique):
            body = replies.encode_statfs(tree.total_bytes(), tree.total_files())
        case protocol.Done(unique):
            body = b""
        case protocol.Refused(unique, _opcode, error):
            return (replies.encode_error(unique, error),)
        case protocol.Forget(_unique, nodes):
            tree.forget(nodes)
            return None
        case protocol.Interrupt():
            return None
    return replies.encode_success(unique, len(body)), body


def read_reply(unique: int, pieces: Sequence[Buffer]) -> list[Buffer]:
    """The answer to a read: the pieces themselves, never joined."""
    return [replies.encode_success(unique, sum(map(len, pieces))), *pieces]


def _xattr_reply(unique: int, size: int, value: bytes | None) -> Sequence[Buffer]:
    if value is None:
        return (replies.encode_error(unique, errno.ENODATA),)
    return _sized_reply(unique, size, value)


def _sized_reply(unique: int, size: int, value: bytes, *, too_long: bool = False) -> Sequence[Buffer]:
    """The value, or how long it is when ``size`` is 0, or ERANGE when it does not fit."""
    if too_long:
        return (replies.encode_error(unique, errno.E2BIG),)
    if size == 0:
        body = replies.encode_xattr_size(len(value))
        return replies.encode_success(unique, len(body)), body
    if len(value) > size:
        return (replies.encode_error(unique, errno.ERANGE),)
    return replies.encode_success(unique, len(value)), value
