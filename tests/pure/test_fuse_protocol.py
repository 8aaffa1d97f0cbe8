"""The FUSE protocol: whatever bytes come, a request or a ProtocolError; what we encode, fuse.h decodes."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.errors import ProtocolError
from cafs.fuse import abi, handshake, protocol, replies
from cafs.fuse.abi import Opcode


def request(opcode: int, body: bytes = b"", *, nodeid: int = 7, unique: int = 42) -> memoryview:
    header = struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, nodeid, 0, 0, 99, 0, 0)
    return memoryview(header + body)


READ_BODY = struct.pack("=QQIIQII", 5, 1 << 40, 131072, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (request(Opcode.LOOKUP, b"etc\0"), protocol.Lookup(42, 7, b"etc")),
        (request(Opcode.LOOKUP, b"\xff\xfe\0"), protocol.Lookup(42, 7, b"\xff\xfe")),
        (request(Opcode.LOOKUP, b"x" * 255 + b"\0"), protocol.Lookup(42, 7, b"x" * 255)),
        (
            request(Opcode.LOOKUP, b"x" * 256 + b"\0"),
            protocol.Refused(42, Opcode.LOOKUP, errno.ENAMETOOLONG),
        ),
        (request(Opcode.GETATTR, bytes(16)), protocol.GetAttr(42, 7)),
        (request(Opcode.READLINK), protocol.ReadLink(42, 7)),
        (request(Opcode.READ, READ_BODY), protocol.Read(42, 7, 1 << 40, 131072, 99)),
        (request(Opcode.READDIR, READ_BODY), protocol.ReadDir(42, 7, 1 << 40, 131072, False)),
        (request(Opcode.READDIRPLUS, READ_BODY), protocol.ReadDir(42, 7, 1 << 40, 131072, True)),
        (
            request(Opcode.GETXATTR, struct.pack("=II", 16, 0) + b"user.a\0"),
            protocol.GetXattr(42, 7, 16, b"user.a"),
        ),
        (request(Opcode.LISTXATTR, struct.pack("=II", 0, 0)), protocol.ListXattr(42, 7, 0)),
        (request(Opcode.STATFS), protocol.StatFs(42)),
        (request(Opcode.FORGET, (3).to_bytes(8, "little")), protocol.Forget(42, ((7, 3),))),
        (
            request(Opcode.BATCH_FORGET, struct.pack("=II4Q", 2, 0, 16, 1, 17, 5)),
            protocol.Forget(42, ((16, 1), (17, 5))),
        ),
        (request(Opcode.INTERRUPT, struct.pack("=Q", 40)), protocol.Interrupt(42, 40)),
        (request(Opcode.RELEASE, bytes(24)), protocol.Done(42)),
        (request(Opcode.OPEN, bytes(8)), protocol.Open(42, 7)),
        (request(Opcode.OPENDIR, bytes(8)), protocol.Refused(42, Opcode.OPENDIR, errno.ENOSYS)),
        (request(Opcode.FLUSH, bytes(24)), protocol.Refused(42, Opcode.FLUSH, errno.ENOSYS)),
        (request(Opcode.WRITE, bytes(40)), protocol.Refused(42, Opcode.WRITE, errno.EROFS)),
        (request(4711), protocol.Refused(42, 4711, errno.ENOSYS)),
    ],
)
def test_each_request_is_understood(message: memoryview, expected: protocol.Request) -> None:
    parsed = protocol.parse_request(message)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    "message",
    [
        memoryview(b""),
        request(Opcode.LOOKUP)[:39],
        request(Opcode.LOOKUP),
        request(Opcode.LOOKUP, b"no end"),
        request(Opcode.LOOKUP, b"\0"),
        request(Opcode.READ, READ_BODY[:-1]),
        request(Opcode.GETXATTR, bytes(4)),
        request(Opcode.LISTXATTR, bytes(7)),
        request(Opcode.INTERRUPT, bytes(7)),
        memoryview(bytes(request(Opcode.STATFS)) + b"more than it says"),
    ],
)
def test_malformed_requests_are_protocol_errors(message: memoryview) -> None:
    with pytest.raises(ProtocolError):
        protocol.parse_request(message)


@given(st.integers(0, 60), st.binary(max_size=120), st.booleans())
def test_any_bytes_give_a_request_or_a_protocol_error(opcode: int, body: bytes, honest: bool) -> None:
    message = request(opcode, body) if honest else memoryview(body)
    try:
        parsed = protocol.parse_request(message)
    except ProtocolError:
        assert protocol.peek_unique(message) == (42 if honest else None) or not honest
    else:
        assert parsed.unique == 42 or not honest


@given(st.binary(max_size=200))
def test_any_first_message_is_an_init_or_a_protocol_error(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        handshake.parse_init(message)


def init_message(minor: int, flags: int) -> bytes:
    body = struct.pack("=IIIII44x", 7, minor, 131072, flags & 0xFFFFFFFF, flags >> 32)
    return bytes(request(Opcode.INIT, body))


def test_only_what_the_kernel_offers_is_taken() -> None:
    offered = abi.INIT_EXT | abi.HAS_RESEND | abi.DO_READDIRPLUS | 1 << 2
    parsed = handshake.parse_init(init_message(45, offered))
    agreed = handshake.negotiate(parsed)
    assert agreed.can_resend
    assert agreed.flags == abi.INIT_EXT | abi.HAS_RESEND | abi.DO_READDIRPLUS
    assert agreed.minor == abi.KERNEL_MINOR
    reply = handshake.encode_init_reply(parsed.unique, agreed)
    assert len(reply) == 16 + 64
    assert struct.unpack_from("=I", reply, 0) == (80,)
    assert struct.unpack_from("=I", reply, 16 + 12) == (agreed.flags & 0xFFFFFFFF,)
    assert struct.unpack_from("=I", reply, 16 + 32) == (agreed.flags >> 32,)


def test_flags_above_32_bits_need_the_extension() -> None:
    parsed = handshake.parse_init(init_message(31, abi.HAS_RESEND))
    assert not handshake.negotiate(parsed).can_resend


def test_a_kernel_without_resend_can_be_played() -> None:
    parsed = handshake.parse_init(init_message(45, abi.INIT_EXT | abi.HAS_RESEND))
    assert not handshake.negotiate(parsed, allow_resend=False).can_resend


def test_an_old_kernel_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"7\.30"):
        handshake.parse_init(init_message(30, 0))


@given(
    st.integers(-(1 << 62), 1 << 62), st.integers(0, 0xFFF), st.integers(0, 0xFFFFF), st.integers(0, 1 << 50)
)
def test_attributes_come_out_as_they_went_in(mtime_ns: int, major: int, minor: int, size: int) -> None:
    rdev = os.makedev(major, minor)
    attr = replies.encode_attr(
        ino=9, size=size, mode=0o20644, nlink=3, uid=1, gid=2, mtime_ns=mtime_ns, rdev=rdev
    )
    fields = struct.unpack("=QQQqqqIIIIIIIIII", attr)
    assert fields[:2] == (9, size)
    assert fields[4] * 10**9 + fields[7] == mtime_ns
    assert 0 <= fields[7] < 10**9
    assert fields[9:13] == (0o20644, 3, 1, 2)
    # new_decode_dev() of include/linux/kdev_t.h
    rdev = fields[13]
    assert ((rdev & 0xFFF00) >> 8, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00)) == (major, minor)


names = st.binary(min_size=1, max_size=255)


def decode_plus(records: bytes) -> list[tuple[int, int, int, bytes]]:
    """(nodeid, cookie, type, name) of each READDIRPLUS record, as the kernel walks them."""
    found, at = [], 0
    while at < len(records):
        nodeid = struct.unpack_from("=Q", records, at)[0]
        _ino, cookie, length, kind = struct.unpack_from("=QQII", records, at + 128)
        found.append((nodeid, cookie, kind, records[at + 152 : at + 152 + length]))
        at += (152 + length + 7) & ~7
    return found


@given(st.lists(names, max_size=40), st.integers(0, 4096))
def test_a_listing_read_in_pieces_is_the_listing(children: list[bytes], extra: int) -> None:
    attr = bytes(abi.ATTR.size)
    listing = replies.encode_listing(
        replies.DirectoryEntry(name, i + 10, attr, i, 4) for i, name in enumerate(children)
    )
    for plus in (True, False):
        size = 152 + 256 + extra
        cookie, seen = 0, []
        while chunk := bytes(listing.chunk(cookie, size) if plus else listing.plain_chunk(cookie, size)):
            assert len(chunk) <= size
            if plus:
                found = decode_plus(chunk)
                seen += [(nodeid, name) for nodeid, _cookie, _kind, name in found]
                cookie = found[-1][1]
            else:
                at = 0
                while at < len(chunk):
                    ino, cookie, length, _kind = struct.unpack_from("=QQII", chunk, at)
                    seen.append((ino + 10, chunk[at + 24 : at + 24 + length]))
                    at += (24 + length + 7) & ~7
        assert seen == [(i + 10, name) for i, name in enumerate(children)]


def test_a_record_that_does_not_fit_is_not_cut() -> None:
    listing = replies.encode_listing([replies.DirectoryEntry(b"a" * 100, 2, bytes(88), 2, 8)])
    assert bytes(listing.chunk(0, 200)) == b""
    assert listing.plain_chunk(0, 100) == b""
    assert len(listing.chunk(0, 256)) == 256


def test_statfs_is_as_long_as_the_kernel_wants() -> None:
    assert len(replies.encode_statfs(1 << 40, 100)) == 80
    assert len(replies.encode_entry(2, bytes(88))) == 128
    assert len(replies.encode_no_entry()) == 128
    assert replies.encode_resend() == struct.pack("=IiQ", 16, 7, 0)
