"""Streams of hosts on their way to the manager, all in one stream of gRPC, and what comes back.

Nothing that hosts say is read here. Of each host one message waits at most, and of all of them 8 MiB: who
says more waits to be heard. The stream of a host that does not take what it is told is ended. Everything
happens in the loop's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from cafs.daemon.carried_stream import CarriedStream, Room
from cafs.daemon.tellable import tellable
from cafs.proto import manager_pb2

_GATHER_S = 0.02
"""What hosts say is gathered for so long."""
_MESSAGE_BYTES = 64 << 10
"""Of a message to the manager, about."""
_UP_BYTES, _DOWN_BYTES, _MOST_WAITING = 8 << 20, 64 << 20, 64
_WORD_BYTES = 16
"""Of a word beside what it says."""
_LOST = "this scheduler has lost the manager: come again"
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class PassedStream(CarriedStream):
    """One host's."""

    __slots__ = ("_room", "_waiting", "number")

    def __init__(self, room: Room) -> None:
        """``room``: for what waits to be said to all hosts."""
        super().__init__()
        self.number = 0
        self._room = room
        self._waiting: list[bytes] = []

    def tell(self, message: bytes) -> None:
        """Have it sent; ends the stream when there is no room."""
        if self.ended:
            return
        if len(self._waiting) < _MOST_WAITING and self._room.take(len(message)):
            self._waiting.append(message)
            self.on_news()
        else:
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "you read too slowly: connect again")

    def take(self) -> list[bytes]:
        """What is to be sent now."""
        waiting, self._waiting = self._waiting, []
        self._room.give_back(sum(map(len, waiting)))
        return waiting

    def let_go(self) -> None:
        """Nothing carries it any more."""
        super().let_go()
        self.take()


class Passage:
    """One stream to the manager."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        """``call``: the manager has answered; closed by whoever opened it."""
        self._call = call
        self._streams: dict[int, PassedStream] = {}
        self._room = Room(_DOWN_BYTES)
        self._last = 0
        self._words: list[manager_pb2.Word] = []
        self._bytes = 0
        self._ended = False
        self._filled = asyncio.Event()
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def hosts(self) -> int:
        """How many go through it."""
        return len(self._streams)

    def open(self, woken: Callable[[], object]) -> PassedStream:
        """A new one. Say Hello next.

        Args:
            woken: Called with the first answer, or the end.
        """
        stream = PassedStream(self._room)
        self._last += 1
        stream.number = self._last
        stream.on_news = stream.on_end = woken
        if self._ended:
            stream.end(grpc.StatusCode.UNAVAILABLE, _LOST)
        else:
            self._streams[self._last] = stream
        return stream

    async def say(self, stream: PassedStream, message: bytes) -> None:
        """What a host says; returns when it is on its way, or the stream has ended."""
        while self._bytes > _UP_BYTES and not stream.ended:
            await asyncio.shield(self._taken)
        if not stream.ended:
            self._put(manager_pb2.Word(stream=stream.number, message=message), len(message))
            await asyncio.shield(self._taken)

    def close(self, stream: PassedStream) -> None:
        """A host's stream has ended; the manager is told, unless it has ended it."""
        if self._streams.pop(stream.number, None) is not None:
            ended = manager_pb2.Ended(code=stream.code.value[0], why=stream.why)
            self._put(manager_pb2.Word(stream=stream.number, ended=ended), 0)

    async def carry(self) -> None:
        """Until the manager ends it, or it breaks.

        Raises:
            grpc.RpcError: always, unless the manager ended it in order.
        """
        speaking = asyncio.create_task(self._speak())
        try:
            while isinstance(message := await self._call.read(), manager_pb2.ToScheduler):
                for word in message.words:
                    self._hear(word)
        finally:
            self._end()
            speaking.cancel()
            await asyncio.gather(speaking, return_exceptions=True)  # it broke as the reading did

    def _end(self) -> None:
        self._ended = True
        for stream in list(self._streams.values()):
            stream.end(grpc.StatusCode.UNAVAILABLE, _LOST)
        self._streams.clear()
        self._taken.set_result(None)

    def _hear(self, word: manager_pb2.Word) -> None:
        stream = self._streams.get(word.stream)
        if stream is None:
            return
        if word.WhichOneof("what") == "message":
            stream.tell(word.message)
        elif word.WhichOneof("what") == "ended":
            del self._streams[word.stream]
            # Told in the call's trailer, for which gRPC has little room.
            stream.end(_CODES.get(word.ended.code, grpc.StatusCode.UNKNOWN), tellable(word.ended.why))

    def _put(self, word: manager_pb2.Word, size: int) -> None:
        self._words.append(word)
        self._bytes += size + _WORD_BYTES
        self._filled.set()

    async def _speak(self) -> None:
        while True:
            await self._filled.wait()
            await asyncio.sleep(_GATHER_S)
            self._filled.clear()
            words, self._words, self._bytes = self._words, [], 0
            taken, self._taken = self._taken, asyncio.get_running_loop().create_future()
            taken.set_result(None)
            for part in _parts(words):
                await self._call.write(manager_pb2.FromScheduler(words=part))


def _parts(words: list[manager_pb2.Word]) -> list[list[manager_pb2.Word]]:
    """As messages have them."""
    parts: list[list[manager_pb2.Word]] = [[]]
    size = 0
    for word in words:
        if size >= _MESSAGE_BYTES or (parts[-1] and size + len(word.message) > _MESSAGE_BYTES):
            parts.append([])
            size = 0
        parts[-1].append(word)
        size += len(word.message) + _WORD_BYTES
    return parts
