"""The streams of the hosts that one scheduler passes on: plain objects on one stream of gRPC.

One task hears and one speaks, however many hosts there are; nothing of a host waits here to be said but its
number. A relay that takes nothing costs the answers that have room (``Roll``). What one host does wrong ends
its own stream and no other's. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import grpc
from google.protobuf.message import DecodeError

from cafs.errors import ProtocolError
from cafs.manager.services.attached import Attached
from cafs.manager.services.incoming import Kind, parse_hello
from cafs.manager.services.reception import Reception
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

MOST_HOSTS = 20_000
"""Of one relay."""
_GATHER_S = 0.01
"""What is to be said is gathered for so long: it comes in bursts, of many hosts."""
_WORDS, _BYTES = 256, 64 << 10
"""Of a message, about."""
_MOST_FAREWELLS = 4096
"""Waiting to be said: then nothing more is heard until they are."""
_TURN = 32
"""Words that are heard before others get their turn."""


class Relay:
    """See the module."""

    def __init__(
        self,
        reception: Reception,
        write: Callable[[manager_pb2.ToScheduler], Awaitable[None]],
        name: str,
        most_hosts: int = MOST_HOSTS,
    ) -> None:
        """
        Args:
            reception: Of hosts.
            write: To the scheduler.
            name: Of the scheduler, for the log.
            most_hosts: That it may carry.
        """
        self._reception = reception
        self._name = name
        self._write = write
        self._most_hosts = most_hosts
        self._hosts: dict[int, _Passed] = {}
        self._highest = 0
        self._news: dict[int, None] = {}
        """Hosts that may have to be told something."""
        self._farewells: deque[manager_pb2.Word] = deque()
        self._filled = asyncio.Event()
        self._said = asyncio.Event()
        self._ending = False

    @property
    def hosts(self) -> int:
        """How many it carries."""
        return len(self._hosts)

    async def listen(self, requests: AsyncIterator[manager_pb2.FromScheduler]) -> None:
        """Do as hosts say, until the scheduler ends the relay."""
        async for message in requests:
            for turn, word in enumerate(message.words, 1):
                self._hear(word)
                if not turn % _TURN:
                    await asyncio.sleep(0)
            while len(self._farewells) > _MOST_FAREWELLS:
                self._said.clear()
                await self._said.wait()

    async def speak(self) -> None:
        """Tell hosts what is new, until ``end``."""
        while not self._ending:
            await self._filled.wait()
            await asyncio.sleep(_GATHER_S)
            self._filled.clear()
            for words in _packed(self._words()):
                if self._ending:
                    return
                await self._write(manager_pb2.ToScheduler(words=words))
                self._said.set()

    def end(self) -> None:
        """All streams that it carries end."""
        self._ending = True
        self._filled.set()
        for host in list(self._hosts.values()):
            self._reception.leave(host.attached)
        self._hosts.clear()

    def have_said(self, number: int) -> None:
        """There may be news for a host."""
        self._news[number] = None
        self._filled.set()

    def forget(self, host: _Passed) -> None:
        """Its stream has ended, by us."""
        if self._hosts.pop(host.number, None) is not None:
            self._farewell(host.number, host.attached.code, host.attached.why)
            self._reception.leave(host.attached)

    def _hear(self, word: manager_pb2.Word) -> None:
        number, said = word.stream, word.WhichOneof("what") == "message"
        if (host := self._hosts.get(number)) is None:
            if said and number > self._highest:
                self._highest = number
                self._begin(number, word.message)
        elif said:
            host.hear(word.message)
        elif word.WhichOneof("what") == "ended":
            del self._hosts[number]
            self._reception.leave(host.attached)

    def _begin(self, number: int, hello: bytes) -> None:
        try:
            arrival = parse_hello(_parse(hello))
            if arrival.kind not in {Kind.PEER, Kind.SEED}:
                raise ProtocolError(f"a {arrival.kind} has to come by itself, and not by way of a scheduler")
        except ProtocolError as e:
            self._reception.note_rejected(f"a host on the relay of {self._name}", str(e))
            self._farewell(number, grpc.StatusCode.INVALID_ARGUMENT, str(e))
            return
        if len(self._hosts) >= self._most_hosts:
            self._farewell(number, grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for more hosts on this relay")
            return
        attached = self._reception.arrive(arrival)
        if attached.written is None:
            self._farewell(number, attached.code, attached.why)
            return
        self._hosts[number] = _Passed(self, self._reception, number, attached)

    def _farewell(self, number: int, code: grpc.StatusCode, why: str) -> None:
        ended = manager_pb2.Ended(code=code.value[0], why=why)
        self._farewells.append(manager_pb2.Word(stream=number, ended=ended))
        self._filled.set()

    def _words(self) -> Iterator[manager_pb2.Word]:
        """All that is to be said now."""
        while self._farewells or self._news:
            while self._farewells:
                yield self._farewells.popleft()
            for number in list(self._news):
                self._news.pop(number, None)
                if (host := self._hosts.get(number)) is not None:
                    for message in host.take():
                        yield manager_pb2.Word(stream=number, message=message.SerializeToString())


class _Passed:
    """One host."""

    __slots__ = ("_reception", "_relay", "attached", "number", "take")

    def __init__(self, relay: Relay, reception: Reception, number: int, attached: Attached) -> None:
        self._relay = relay
        self._reception = reception
        self.number = number
        self.attached = attached
        self.take: Callable[[], Sequence[manager_pb2.ToService]] = tuple
        """What it is to be told now: nothing, until it is written that it is here."""
        attached.on_end = self._on_end
        assert attached.written is not None
        attached.written.add_done_callback(self._on_written)

    def hear(self, said: bytes) -> None:
        """Do as it says."""
        if self.take is tuple:
            self._reception.reject(self.attached, "nothing but Hello may be said before Welcome")
            return
        try:
            message = _parse(said)
        except ProtocolError as e:
            self._reception.reject(self.attached, str(e))
            return
        self._reception.heed(self.attached, message)

    def _on_written(self, written: asyncio.Future[None]) -> None:
        attached = self.attached
        attached.written = None
        if attached.ended:
            return
        if (error := written.exception()) is not None:
            attached.end(grpc.StatusCode.UNAVAILABLE, str(error))
            return
        self.take = self._reception.welcome(attached)
        attached.on_news = self._on_news
        self._on_news()

    def _on_news(self) -> None:
        self._relay.have_said(self.number)

    def _on_end(self) -> None:
        self._relay.forget(self)


def _parse(said: bytes) -> manager_pb2.FromService:
    try:
        return manager_pb2.FromService.FromString(said)
    except DecodeError:
        raise ProtocolError("it is no message of this protocol") from None


def _packed(words: Iterator[manager_pb2.Word]) -> Iterator[list[manager_pb2.Word]]:
    """As messages have them."""
    packed: list[manager_pb2.Word] = []
    size = 0
    for word in words:
        packed.append(word)
        size += len(word.message)
        if len(packed) >= _WORDS or size >= _BYTES:
            yield packed
            packed, size = [], 0
    if packed:
        yield packed
