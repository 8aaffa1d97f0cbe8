"""The answers a mount gets before trio is loaded, over a socket that plays the FUSE device."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator, Sequence

import pytest

from cafs.fuse.abi import Opcode
from cafs.fuse.first_session import answer_from_memory
from cafs.fuse.flat import FIRST_LAYER_NODE, FlatTree
from cafs.fuse.outstanding import Outstanding
from tests.support.patience import PATIENCE_S


class Halves:
    """A virtual image of 64 KiB whose second half is not in memory."""

    virtual_bytes = 65536
    about = "layer=test"

    def try_read(self, offset: int, size: int) -> Sequence[bytes] | None:
        return [b"m" * size] if offset + size <= 32768 else None

    async def read(self, offset: int, size: int) -> Sequence[bytes]:
        raise AssertionError("nothing may wait here")


def message(opcode: int, unique: int, node: int, body: bytes = b"") -> bytes:
    return struct.pack("=IIQQIIIHH", 40 + len(body), opcode, unique, node, 0, 0, 99, 0, 0) + body


def read_of(unique: int, offset: int, size: int) -> bytes:
    body = struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0)
    return message(Opcode.READ, unique, FIRST_LAYER_NODE, body)


@pytest.fixture
def served() -> Iterator[tuple[socket.socket, threading.Thread]]:
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    device.setblocking(False)
    tree = FlatTree([("a", Halves())])
    server = threading.Thread(target=answer_from_memory, args=(device.fileno(), tree, Outstanding()))
    server.start()
    kernel.settimeout(PATIENCE_S)
    yield kernel, server
    kernel.send(read_of(99, 32768, 4096))  # the end of it
    server.join(PATIENCE_S)
    kernel.close()
    device.close()


def test_what_is_in_memory_is_answered(served: tuple[socket.socket, threading.Thread]) -> None:
    kernel, _ = served
    kernel.send(message(Opcode.LOOKUP, 1, 2, b"a\0"))
    kernel.send(message(Opcode.FORGET, 2, FIRST_LAYER_NODE, bytes(8)))
    kernel.send(read_of(3, 4096, 8192))
    length, error, unique = struct.unpack_from("=IiQ", kernel.recv(65536))
    assert (error, unique) == (0, 1)
    answered = kernel.recv(65536)
    length, error, unique = struct.unpack_from("=IiQ", answered)
    assert (length, error, unique) == (16 + 8192, 0, 3)
    assert answered[16:] == b"m" * 8192


def test_it_ends_at_the_first_read_that_must_wait(served: tuple[socket.socket, threading.Thread]) -> None:
    kernel, server = served
    kernel.send(read_of(1, 32768, 4096))
    server.join(PATIENCE_S)
    assert not server.is_alive()
    kernel.setblocking(False)
    with pytest.raises(BlockingIOError):
        kernel.recv(65536)
