"""What one relay may cost the manager, whatever its scheduler does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import grpc

from cafs.daemon.carried_stream import Room
from cafs.manager.clusters.placing import Place
from cafs.manager.database import Database, parse_database
from cafs.manager.jobs.board import Board
from cafs.manager.migrate import upgrade
from cafs.manager.profiles.desk import ProfileDesk
from cafs.manager.replica import Pace
from cafs.manager.services.attached import Attached
from cafs.manager.services.incoming import Arrival, Kind, Runs
from cafs.manager.services.reception import Reception
from cafs.manager.services.relay import Relay
from cafs.manager.services.roll import Roll
from cafs.manager.statistics.collector import Collector
from cafs.manager.tally import Tally
from cafs.proto import manager_pb2
from tests.support.patience import PATIENCE_S

MOST = 20


class Scheduler:
    """It says all at once, and takes what it is told when ``takes`` is set."""

    def __init__(self) -> None:
        self.takes = asyncio.Event()
        self.told: list[manager_pb2.Word] = []
        self.pulled = 0
        self._changed = asyncio.Event()

    async def write(self, message: manager_pb2.ToScheduler) -> None:
        await self.takes.wait()
        self.told += message.words
        self._changed.set()

    async def says(
        self, words: list[manager_pb2.Word], at_once: int
    ) -> AsyncIterator[manager_pb2.FromScheduler]:
        for first in range(0, len(words), at_once):
            self.pulled += 1
            self._changed.set()
            yield manager_pb2.FromScheduler(words=words[first : first + at_once])

    async def until(self, holds: Callable[[], bool]) -> None:
        """Of what it was told, and has said."""
        while not holds():
            self._changed.clear()
            await self._changed.wait()

    def ended(self) -> dict[int, int]:
        """Codes of the streams that were."""
        return {word.stream: word.ended.code for word in self.told if word.WhichOneof("what") == "ended"}


def with_relay(folder: Path, work: Callable[[Relay, Scheduler, Roll], Awaitable[None]]) -> None:
    """One with all that is behind it, on a database."""

    async def main() -> None:
        with Database(parse_database("", folder / "manager.db")) as database:
            await asyncio.to_thread(upgrade, database)
            tally, roll = Tally(), Roll(database, "r" * 32)
            await roll.load()
            reception = Reception(
                roll,
                ProfileDesk(database, tally),
                Board(database, roll.have_told),
                Collector(database, tally, lambda: roll.hosts, Pace()),
                tally,
                manager_pb2.Welcome(),
            )
            scheduler = Scheduler()
            relay = Relay(reception, scheduler.write, "s", MOST)
            running = [asyncio.create_task(roll.run()), asyncio.create_task(relay.speak())]
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await work(relay, scheduler, roll)
            finally:
                relay.end()
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(main())


def hello(number: int) -> manager_pb2.Word:
    said = manager_pb2.Hello(
        protocol_version=1, host_id=f"{number:032x}", kind=manager_pb2.PEER, address="10.1.2.3:7000"
    )
    message = manager_pb2.FromService(hello=said).SerializeToString()
    return manager_pb2.Word(stream=number, message=message)


def test_one_that_takes_nothing_is_not_heard_for_ever(tmp_path: Path) -> None:
    async def work(relay: Relay, scheduler: Scheduler, _: Roll) -> None:
        nonsense = [manager_pb2.Word(stream=number, message=b"\xff") for number in range(1, 20_001)]
        listening = asyncio.create_task(relay.listen(scheduler.says(nonsense, 100)))
        await scheduler.until(lambda: scheduler.pulled >= 40)
        for _turn in range(10_000):  # it would be through by then
            await asyncio.sleep(0)
        assert not listening.done()
        assert scheduler.pulled < 60
        scheduler.takes.set()
        await listening
        await scheduler.until(lambda: len(scheduler.told) == len(nonsense))
        assert set(scheduler.ended().values()) == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}

    with_relay(tmp_path, work)


def test_there_is_room_for_so_many_hosts(tmp_path: Path) -> None:
    async def work(relay: Relay, scheduler: Scheduler, roll: Roll) -> None:
        scheduler.takes.set()
        await relay.listen(scheduler.says([hello(number) for number in range(1, MOST + 3)], 5))

        def welcomed() -> set[int]:
            return {word.stream for word in scheduler.told if word.WhichOneof("what") == "message"}

        await scheduler.until(lambda: len(welcomed()) == MOST and len(scheduler.ended()) == 2)
        full = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert scheduler.ended() == {MOST + 1: full, MOST + 2: full}
        assert relay.hosts == roll.hosts == MOST
        relay.end()
        assert roll.hosts == 0

    with_relay(tmp_path, work)


def test_answers_that_nobody_takes_have_a_bound_for_all_together() -> None:
    answer = manager_pb2.ToService(learned_profile=manager_pb2.LearnedProfile(profile=bytes(1000)))
    room = Room(10_000)
    one, two = Attached(arrival(), room), Attached(arrival(), room)
    for attached in (one, two):
        for _ in range(20):
            attached.tell(answer)
    assert (len(one.take_answers()), len(two.take_answers())) == (9, 0)
    two.tell(answer)
    two.let_go()
    two.tell(answer)  # it is gone
    for _ in range(20):
        one.tell(answer)
    assert len(one.take_answers()) == 9


def arrival() -> Arrival:
    place = Place(address=ip_address("10.1.2.3"), hostname="h", idc="", location=())
    return Arrival("a" * 32, Kind.PEER, "10.1.2.3:7000", "", "", "test", place, Runs())
