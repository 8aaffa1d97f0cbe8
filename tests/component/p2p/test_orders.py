"""What a manager's jobs want of a host: done once, told of as often as it is told, stopped when it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from cafs.core.settings import Settings
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.p2p.orders import Orders
from cafs.p2p.work import Work
from cafs.proto import manager_pb2
from tests.support.grid import GridHost, grid, until
from tests.support.logs import ExpectedLogs
from tests.support.proxying import Origin

BODY = os.urandom((2 << 20) + 77)
pytestmark = pytest.mark.usefixtures("bounded")


class Told:
    """A host's orders, and its last word about each."""

    def __init__(self, host: GridHost, folder: Path) -> None:
        unused = cast(Any, None)  # files need no chunks
        work = Work(
            settings=Settings(cache_dir=folder, run_dir=folder),
            engine=host.engine,
            tasks=host.store,
            exchange=unused,
            chunks=unused,
            repositories=unused,
            profiles=unused,
            nursery=host.nursery,
        )
        self._orders = Orders(work, self._hear)
        self.words: dict[int, manager_pb2.OrderReport] = {}
        self.said = 0

    def tell(self, *orders: manager_pb2.Order) -> None:
        self._orders.take(manager_pb2.Orders(orders=orders))

    def _hear(self, message: manager_pb2.FromService) -> None:
        self.said += 1
        self.words[message.order_report.job_id] = message.order_report

    async def ended(self, job_id: int, attempt: int = 1) -> manager_pb2.OrderReport:
        def has_ended() -> bool:
            word = self.words.get(job_id)
            return word is not None and word.attempt == attempt and word.progress != manager_pb2.DOING

        await until(has_ended)
        return self.words[job_id]


def preheat(origin: Origin, job_id: int = 1, attempt: int = 1, path: str = "/f") -> manager_pb2.Order:
    file = manager_pb2.PreheatFile(url=origin.url + path, priority=3)
    return manager_pb2.Order(job_id=job_id, attempt=attempt, file=file)


async def test_it_is_done_once_however_often_it_is_told(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host()
        told = Told(host, tmp_path)
        told.tell(preheat(origin))
        told.tell(preheat(origin))
        word = await told.ended(1)
        assert (word.progress, word.done_bytes, word.total_bytes) == (manager_pb2.DONE, len(BODY), len(BODY))
        [task] = host.store.tasks()
        assert task.complete
        asked, said = len(origin.asked), told.said
        told.tell(preheat(origin))
        assert (told.said, told.words[1].progress) == (said + 1, manager_pb2.DONE)
        told.tell()  # it is told no more: when it is again, it is another one
        told.tell(preheat(origin))
        assert (await told.ended(1)).done_bytes == len(BODY)
        assert len(origin.asked) - asked <= 1  # is it still the same?


async def test_what_is_told_no_more_is_stopped(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host(limits=PeerLimits(source_bytes_per_s=300_000))
        told = Told(host, tmp_path)
        told.tell(preheat(origin), preheat(origin, 2, path="/f?other"))
        await until(lambda: len(host.engine.active) == 2)
        told.tell(preheat(origin, 2, path="/f?other"))
        await until(lambda: len(host.engine.active) == 1)
        assert [task.spec.url for task in host.store.tasks() if task.in_use] == [f"{origin.url}/f?other"]
        told.tell()
        await until(lambda: not host.engine.active)


async def test_another_attempt_is_begun_anew(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("job 1 wants cannot be done: .* answered 404")
    async with grid(tmp_path, scheduled=False) as swarm:
        told = Told(await swarm.host(), tmp_path)
        told.tell(preheat(origin, path="/new"))
        word = await told.ended(1)
        assert (word.progress, "404" in word.why) == (manager_pb2.FAILED, True)
        origin.page("/new", BODY)
        told.tell(preheat(origin, attempt=2, path="/new"))
        assert (await told.ended(1, attempt=2)).progress == manager_pb2.DONE


async def test_what_only_this_machine_reaches_is_not_for_a_manager(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("job 1 wants cannot be done: another host wants it")
    async with grid(tmp_path, scheduled=False) as swarm:
        swarm.apart = True
        told = Told(await swarm.host(), tmp_path)
        told.tell(preheat(origin))
        word = await told.ended(1)
        assert (word.progress, "proxy_allow" in word.why) == (manager_pb2.FAILED, True)
        assert not origin.asked


async def test_what_is_held_is_told_and_deleted(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host()
        told = Told(host, tmp_path)
        told.tell(preheat(origin))
        await told.ended(1)
        other = manager_pb2.DeleteTasks(url=f"{origin.url}/other")
        told.tell(manager_pb2.Order(job_id=2, attempt=1, delete=other))
        assert json.loads((await told.ended(2)).result) == {"tasks": 0}
        wanted = manager_pb2.DeleteTasks(url=f"{origin.url}/f")
        told.tell(manager_pb2.Order(job_id=3, attempt=1, delete=wanted))
        assert json.loads((await told.ended(3)).result) == {"tasks": 1}
        assert host.store.tasks() == []


@pytest.mark.parametrize(
    ("order", "why"),
    [
        (manager_pb2.Order(job_id=1, attempt=1), "cannot do what the job wants"),
        (
            manager_pb2.Order(job_id=1, attempt=1, file=manager_pb2.PreheatFile(url="nothing", priority=3)),
            "scheme",
        ),
        (
            manager_pb2.Order(job_id=1, attempt=1, file=manager_pb2.PreheatFile(url="http://x/", priority=9)),
            "priority",
        ),
        (
            manager_pb2.Order(job_id=1, attempt=1, image=manager_pb2.PreheatImage(image="dir:/etc")),
            "no registry",
        ),
    ],
)
async def test_what_cannot_be_done_is_said(
    tmp_path: Path, expected_logs: ExpectedLogs, order: manager_pb2.Order, why: str
) -> None:
    expected_logs.expect("job 1 wants cannot be done")
    async with grid(tmp_path, scheduled=False) as swarm:
        told = Told(await swarm.host(), tmp_path)
        told.tell(order)
        word = await told.ended(1)
        assert word.progress == manager_pb2.FAILED
        assert why in word.why
