"""What a host does with schedulers that the manager names: lines come and go, and downloads move."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cafs.core.settings import Settings
from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.messages import ForgetReason, SchedulerLost
from cafs.core.swarm.task import TaskSpec
from cafs.p2p.named_schedulers import MOST, NamedSchedulers, known_schedulers
from cafs.p2p.scheduler_messages import HeldTask, HostFacts
from cafs.p2p.schedulers import Schedulers
from cafs.proto import p2p_pb2
from tests.support.logs import ExpectedLogs

FACTS = HostFacts(
    host_id=HostId("a" * 32),
    address="10.1.1.1:1",
    hostname="h",
    seed=False,
    idc="",
    location="",
    upload_limit=8,
    version="v",
)
SPEC = TaskSpec(task_id=TaskId("7" * 64), url="https://o/f")
ONE, TWO, THREE = "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"


class FakeHost:
    """It holds nothing."""

    def facts(self) -> HostFacts:
        return FACTS

    def held(self) -> list[HeldTask]:
        return []

    def alive(self) -> p2p_pb2.FromHost:
        return p2p_pb2.FromHost()

    def on_seed(self, spec: TaskSpec) -> None: ...

    def on_forget(self, task: TaskId, why: ForgetReason) -> None: ...

    def on_limits(self, changes: dict[str, int]) -> None: ...


class Streams:
    """Schedulers that welcome whoever comes; what each was told."""

    def __init__(self) -> None:
        self.told: dict[str, list[str]] = {}
        self.open: set[str] = set()

    async def converse(
        self,
        address: str,
        outbox: Any,
        reached: Callable[[], None],
        heard: Callable[[p2p_pb2.ToHost], None],
    ) -> None:
        outbox.told = self.told.setdefault(address, [])
        self.open.add(address)
        try:
            reached()
            heard(p2p_pb2.ToHost(welcome=p2p_pb2.Welcome(scheduler_id="s", alive_every_ms=60_000)))
            await trio.sleep_forever()
        finally:
            self.open.discard(address)


class Outbox:
    def __init__(self) -> None:
        self.overrun = False
        self.told: list[str] = []

    def send(self, message: p2p_pb2.FromHost) -> None:
        self.told.append(str(message.WhichOneof("message")))


async def test_lines_come_and_go_and_downloads_move() -> None:
    streams, heard = Streams(), list[object]()
    schedulers = Schedulers([ONE], FakeHost(), streams.converse, Outbox, more_to_come=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedulers.run)
        await trio.testing.wait_all_tasks_blocked()
        assert schedulers.connected == [ONE]
        session = schedulers.join(SPEC, heard.append)
        assert "register" in " ".join(streams.told[ONE])
        schedulers.use([TWO, THREE])
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(schedulers.connected) == [TWO, THREE]
        assert streams.open == {TWO, THREE}
        assert session.scheduled
        assert any("register" in word for address in (TWO, THREE) for word in streams.told[address])
        schedulers.use([TWO, TWO])
        await trio.testing.wait_all_tasks_blocked()
        assert schedulers.addresses == [TWO]
        assert session.scheduled
        schedulers.use([])
        await trio.testing.wait_all_tasks_blocked()
        assert not session.scheduled
        nursery.cancel_scope.cancel()
    assert streams.open == set()


async def test_the_first_ones_may_be_named_long_after_the_start(autojump_clock: object) -> None:
    streams = Streams()
    schedulers = Schedulers([], FakeHost(), streams.converse, Outbox, more_to_come=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedulers.run)
        await trio.sleep(60)
        schedulers.use([ONE])
        await trio.sleep(0.5)
        assert schedulers.connected == [ONE]
        nursery.cancel_scope.cancel()


async def test_downloads_wait_a_moment_for_schedulers_that_will_be_named(autojump_clock: object) -> None:
    streams, heard = Streams(), list[object]()
    schedulers = Schedulers([], FakeHost(), streams.converse, Outbox, more_to_come=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedulers.run)
        session = schedulers.join(SPEC, heard.append)
        await trio.sleep(1)
        assert not schedulers.is_lost(session)
        schedulers.use([ONE])
        await trio.sleep(0.5)
        assert session.scheduled
        assert not any(isinstance(word, SchedulerLost) for word in heard)
        nursery.cancel_scope.cancel()


async def test_they_wait_no_longer_once_the_manager_has_said_that_there_are_none(
    autojump_clock: object, tmp_path: Path
) -> None:
    schedulers = Schedulers([], FakeHost(), Streams().converse, Outbox, more_to_come=True)
    names = NamedSchedulers(Settings(cache_dir=tmp_path, run_dir=tmp_path, managers=("m:1",)), schedulers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(schedulers.run)
        session = schedulers.join(SPEC, (heard := list[object]()).append)
        await trio.sleep(0.5)
        assert not heard
        names.take([])
        assert heard == [SchedulerLost()]
        assert schedulers.is_lost(session)
        nursery.cancel_scope.cancel()


class Used:
    def __init__(self) -> None:
        self.addresses: list[list[str]] = []

    def use(self, addresses: list[str]) -> None:
        self.addresses.append(addresses)


def named(settings: Settings, used: Used) -> NamedSchedulers:
    return NamedSchedulers(settings, cast("Schedulers", used))


def settings_in(folder: Path, **fields: Any) -> Settings:
    return Settings(cache_dir=folder, run_dir=folder, schedulers=(ONE,), **fields)


def test_named_ones_are_used_beside_our_own_and_kept(tmp_path: Path) -> None:
    used, settings = Used(), settings_in(tmp_path, managers=("m:1",))
    names = named(settings, used)
    assert known_schedulers(settings) == [ONE]
    names.take([TWO, TWO])
    assert used.addresses == [[ONE, TWO]]
    assert known_schedulers(settings) == [ONE, TWO]
    assert known_schedulers(settings_in(tmp_path)) == [ONE]  # without a manager nobody named any
    names.take([])
    assert used.addresses[-1] == [ONE]
    assert known_schedulers(settings) == [ONE]


@pytest.mark.parametrize(
    "addresses",
    [["host:1"], ["10.0.0.1"], ["0.0.0.0:1"], [f"10.0.0.1:{n}" for n in range(1, MOST + 2)], [""]],
)
def test_names_that_cannot_be_change_nothing(
    tmp_path: Path, expected_logs: ExpectedLogs, addresses: list[str]
) -> None:
    expected_logs.expect("they stay as they are")
    used, settings = Used(), settings_in(tmp_path, managers=("m:1",))
    names = named(settings, used)
    names.take([TWO])
    names.take(addresses)
    assert used.addresses == [[ONE, TWO]]
    assert known_schedulers(settings) == [ONE, TWO]


@pytest.mark.parametrize("text", ["", "{", "7", "[7]", '["x"]', "[" * 100_000, json.dumps([TWO] * 100)])
def test_a_kept_file_that_is_damaged_is_as_good_as_none(
    tmp_path: Path, expected_logs: ExpectedLogs, text: str
) -> None:
    expected_logs.expect("are not used")
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer/schedulers.json").write_text(text)
    assert known_schedulers(settings_in(tmp_path, managers=("m:1",))) == [ONE]
