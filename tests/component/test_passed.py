"""Streams of hosts through a scheduler, to a manager that takes them slowly, and hosts that do."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from random import Random
from typing import Any

import grpc

from cafs.daemon.carried_stream import Room
from cafs.proto import manager_pb2
from cafs.scheduler.passed import Passage, PassedStream
from tests.support.patience import PATIENCE_S
from tests.support.random_messages import random_message


class SlowManager:
    """The call of a relay: it takes nothing until it is let, and says nothing until it ends."""

    def __init__(self) -> None:
        self.takes, self.ends = asyncio.Event(), asyncio.Event()
        self.took: list[manager_pb2.Word] = []
        self.largest = 0
        self._took = asyncio.Event()

    async def write(self, message: Any) -> None:
        await self.takes.wait()
        self.took += message.words
        self.largest = max(self.largest, message.ByteSize())
        self._took.set()

    async def has(self, words: int) -> None:
        while len(self.took) < words:
            self._took.clear()
            await self._took.wait()

    async def read(self) -> Any:
        await self.ends.wait()
        return None  # as gRPC says it: no message


class SayingManager:
    """The call of a relay: it says all that it was given, and ends."""

    def __init__(self, messages: Iterable[manager_pb2.ToScheduler]) -> None:
        self._messages = iter(messages)

    async def write(self, _message: Any) -> None:
        """Nobody wants to know."""

    async def read(self) -> Any:
        return next(self._messages, None)


def test_hosts_wait_for_a_slow_manager_and_nothing_is_lost() -> None:
    async def work() -> None:
        manager: Any = SlowManager()
        passage = Passage(manager)
        carrying = asyncio.create_task(passage.carry())
        streams = [passage.open(lambda: None) for _ in range(100)]
        said = [bytes([turn]) * 300_000 for turn in range(3)]

        async def speak(stream: PassedStream) -> None:
            for message in said:
                await passage.say(stream, message)

        speaking = [asyncio.create_task(speak(stream)) for stream in streams]
        done, _ = await asyncio.wait(speaking, timeout=0.3)
        assert not done  # of each host one message waits at most
        manager.takes.set()
        await asyncio.gather(*speaking)
        for stream in streams:
            passage.close(stream)
        await manager.has(400)
        for stream in streams:
            words = [word for word in manager.took if word.stream == stream.number]
            assert [word.message for word in words] == [*said, b""]
            assert words[-1].WhichOneof("what") == "ended"
        assert manager.largest < 384 << 10  # as the manager takes it
        late = passage.open(lambda: None)
        manager.ends.set()
        await carrying
        assert late.code is passage.open(lambda: None).code is grpc.StatusCode.UNAVAILABLE

    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))


def test_a_host_that_takes_nothing_is_ended_and_its_room_is_free_again() -> None:
    room = Room(1000)
    slow, other = PassedStream(room), PassedStream(room)
    for _ in range(10):
        slow.tell(bytes(100))
    other.tell(bytes(1))
    assert (slow.ended, other.code) == (False, grpc.StatusCode.RESOURCE_EXHAUSTED)
    slow.tell(bytes(1))
    assert slow.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    slow.let_go()
    third = PassedStream(room)
    for _ in range(64):
        third.tell(b"x")
    assert not third.ended
    third.tell(b"x")
    assert third.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_manager_that_says_anything_harms_only_streams_that_it_names() -> None:
    """And these it ends at most: with a code that there is, and words that fit into a trailer."""
    rng = Random(3)
    usual = {"stream": [1, 2, 3], "code": [0, 14, 16]}

    async def ended_by_it() -> int:
        said = [random_message(rng, manager_pb2.ToScheduler, usual) for _ in range(20)]
        named = {word.stream for message in said for word in message.words}
        good = manager_pb2.Word(stream=4, message=b"good")
        manager: Any = SayingManager([*said, manager_pb2.ToScheduler(words=[good])])
        passage = Passage(manager)
        woken: set[int] = set()
        streams = [passage.open(partial(woken.add, number)) for number in range(1, 5)]
        await passage.carry()
        assert woken == {1, 2, 3, 4}
        for stream in streams:
            assert stream.ended
            assert stream.why.isprintable()
            assert len(stream.why.encode()) < 4000
        assert 4 in named or streams[3].take() == [b"good"]
        return sum(stream.code is not grpc.StatusCode.UNAVAILABLE for stream in streams[:3])

    async def work() -> int:
        return sum([await ended_by_it() for _ in range(50)])

    assert asyncio.run(asyncio.wait_for(work(), PATIENCE_S)) > 20
