"""What is sent over a plain socket arrives whole, however slowly it is read; who has left is noticed."""

import os
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from cafs.http11.sending import send_all

DATA = os.urandom(1 << 20)


@pytest.fixture
async def pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    one, other = trio.socket.socketpair()
    with one, other:
        yield trio.SocketStream(one), trio.SocketStream(other)


async def test_a_slow_reader_gets_all_of_it(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    sender, reader = pair
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_all, sender, memoryview(DATA))
        while len(got) < len(DATA):
            got += await reader.receive_some(10_000)
    assert bytes(got) == DATA


async def test_a_reader_who_left_is_noticed(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    sender, reader = pair

    async def leave() -> None:
        await reader.receive_some(1)
        await reader.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        with pytest.raises(trio.BrokenResourceError):
            await send_all(sender, DATA)


async def test_a_closed_socket_is_no_broken_one(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    sender, _ = pair
    await sender.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await send_all(sender, DATA)


async def test_who_waits_for_room_can_be_cancelled(pair: tuple[trio.SocketStream, trio.SocketStream]) -> None:
    sender, _ = pair
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, sender, DATA)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
