"""FUSE_INIT: what the kernel offers, what we take, and the answer. Pure; used by ``supervisor``."""

from __future__ import annotations

from typing import NamedTuple

from cafs.errors import ProtocolError
from cafs.fuse import abi

MAX_READAHEAD_BYTES = 4 << 20
MAX_PAGES = 256
"""1 MiB a request: the kernel's default ceiling (fs.fuse.max_pages_limit)."""
MAX_BACKGROUND = 8192
"""Reads the kernel keeps in flight by itself (readahead; asynchronous direct reads, as an EROFS mount's are).
All files share them: with few, those of one image that hangs would keep out all others."""
MAX_WRITE_BYTES = 4096
"""Nothing is ever written; the kernel takes no less."""

_WANTED = (
    abi.ASYNC_READ
    | abi.DO_READDIRPLUS
    | abi.ASYNC_DIO
    | abi.NO_OPEN_SUPPORT
    | abi.NO_OPENDIR_SUPPORT
    | abi.PARALLEL_DIROPS
    | abi.POSIX_ACL
    | abi.MAX_PAGES
    | abi.CACHE_SYMLINKS
    | abi.INIT_EXT
    | abi.HAS_RESEND
)


class Negotiated(NamedTuple):
    """What both sides agreed on; a later server child needs it as the first one did."""

    minor: int
    flags: int
    max_readahead_bytes: int

    @property
    def can_resend(self) -> bool:
        """The kernel sends unanswered requests again when asked (Linux 6.9)."""
        return bool(self.flags & abi.HAS_RESEND)


class InitRequest(NamedTuple):
    """FUSE_INIT as the kernel sent it."""

    unique: int
    major: int
    minor: int
    max_readahead_bytes: int
    flags: int


def parse_init(message: bytes | memoryview) -> InitRequest:
    """Parse the first request of a session.

    Raises:
        ProtocolError: it is not a FUSE_INIT, or from a kernel older than 5.4.
    """
    header = abi.IN_HEADER.size
    if len(message) < header + abi.INIT_IN.size:
        raise ProtocolError(f"FUSE_INIT of {len(message)} bytes is too short")
    length, opcode, unique, *_rest = abi.IN_HEADER.unpack_from(message)
    if opcode != abi.Opcode.INIT or length != len(message):
        raise ProtocolError(f"the first FUSE request is opcode {opcode}, not FUSE_INIT")
    major, minor, readahead, flags = abi.INIT_IN.unpack_from(message, header)
    flags2_at = header + abi.INIT_IN.size
    if flags & abi.INIT_EXT and len(message) >= flags2_at + abi.INIT_IN_FLAGS2.size:
        flags |= abi.INIT_IN_FLAGS2.unpack_from(message, flags2_at)[0] << 32
    if major != abi.KERNEL_MAJOR or minor < abi.OLDEST_MINOR:
        raise ProtocolError(
            f"the kernel speaks FUSE {major}.{minor}; CAFS needs 7.{abi.OLDEST_MINOR} or later 7.x"
        )
    return InitRequest(unique, major, minor, readahead, flags)


def negotiate(request: InitRequest, *, allow_resend: bool = True) -> Negotiated:
    """Choose what we take of the kernel's offer.

    Args:
        request: The offer.
        allow_resend: False plays a kernel without FUSE_NOTIFY_RESEND.
    """
    wanted = _WANTED if allow_resend else _WANTED & ~abi.HAS_RESEND
    return Negotiated(
        minor=min(request.minor, abi.KERNEL_MINOR),
        flags=request.flags & wanted,
        max_readahead_bytes=min(request.max_readahead_bytes, MAX_READAHEAD_BYTES),
    )


def encode_init_reply(unique: int, agreed: Negotiated) -> bytes:
    """The whole answer to FUSE_INIT."""
    body = abi.INIT_OUT.pack(
        abi.KERNEL_MAJOR, agreed.minor, agreed.max_readahead_bytes, agreed.flags & 0xFFFFFFFF,
        MAX_BACKGROUND, MAX_BACKGROUND * 3 // 4, MAX_WRITE_BYTES, 1, MAX_PAGES, 0, agreed.flags >> 32,
    )  # fmt: skip
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), 0, unique) + body
