"""Reports of services, over real gRPC, and what REST says of them, on both databases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select

from cafs.core.statistics.amounts import AMOUNTS, LEVELS
from cafs.core.statistics.ledger import Ledger
from cafs.daemon.live_configuration import LiveConfiguration
from cafs.daemon.manager_link import ManagerLink
from cafs.daemon.reporting import Reporting
from cafs.manager.database import Database, parse_database
from cafs.manager.migrate import upgrade
from cafs.manager.replica import Pace
from cafs.manager.statistics.incoming import Told
from cafs.manager.statistics.keeping import GRAINS, Of
from cafs.manager.statistics.rows import COLUMNS, MOST_PARTS, Arrived, sums_of
from cafs.manager.statistics.tidying import tidy
from cafs.manager.statistics.writing import add_rows, write_reports
from cafs.manager.tables import STATISTIC
from cafs.manager.tally import Tally
from cafs.proto import manager_pb2
from tests.component.manager.test_services import facts
from tests.support.logs import ExpectedLogs
from tests.support.manager import Manager, options_for, running_manager
from tests.support.manager_client import ServiceStream, channel_to, until
from tests.support.postgres import Postgres, running_postgres

A, B = "a" * 32, "b" * 32
LIFE = "0123456789abcdef" * 2
TASK, OTHER_TASK = "1" * 64, "2" * 64
AT_ONCE = Pace(gather_s=0.01, report_every_s=0.05)


@pytest.fixture
def manager(tmp_path: Path, database_address: str) -> Iterator[Manager]:
    """One that writes down reports soon."""
    with running_manager(options_for(tmp_path, database_address, pace=AT_ONCE)) as running:
        yield running


def counts(**amounts: int) -> manager_pb2.Counts:
    return manager_pb2.Counts(**amounts)


def report(number: int = 1, life: str = LIFE, **fields: Any) -> manager_pb2.Report:
    return manager_pb2.Report(life=life, number=number, **fields)


def part(name: str, **amounts: int) -> manager_pb2.Part:
    return manager_pb2.Part(name=name, counts=counts(**amounts))


def told(stream: ServiceStream, message: manager_pb2.Report) -> None:
    """Say it, and wait until it is counted."""
    stream.say(report=message)
    answer = stream.hear("counted")
    assert (answer.life, answer.number) == (message.life, message.number)
    assert 45 <= answer.next_in_ms <= 55  # not all at once


def totals(manager: Manager, token: str, query: str = "") -> Any:
    return manager.call("GET", f"/statistics/totals?{query}", token)["values"]


def test_what_is_told_is_counted_by_cluster_host_task_and_application(manager: Manager) -> None:
    admin = manager.administrator()
    with channel_to(manager.ports.services) as channel:
        peer, seed = ServiceStream(channel), ServiceStream(channel, B)
        peer.hello()
        seed.hello(kind=manager_pb2.SEED)
        whole = counts(seed_bytes=600, peer_bytes=300, local_bytes=100, downloads_succeeded=2, first_bytes=4,
                       first_byte_ms=100, first_byte_up_to_10=2, first_byte_up_to_100=2)  # fmt: skip
        parts = [part(TASK, seed_bytes=500, downloads_succeeded=1), part(OTHER_TASK, peer_bytes=250)]
        told(peer, report(all=whole, tasks=parts, applications=[part("a'b", seed_bytes=500)],
                          levels=manager_pb2.Levels(tasks=2, store_bytes=7)))  # fmt: skip
        told(seed, report(all=counts(origin_bytes=1000, upload_bytes=600)))
        of_all = totals(manager, admin)
        assert [of_all[f"{name}_bytes"] for name in ("origin", "seed", "peer", "local")] == [
            1000,
            600,
            300,
            100,
        ]
        assert (of_all["hit_ratio"], of_all["first_byte_mean_ms"], of_all["tasks"]) == (0.5, 25, 2)
        assert (of_all["first_byte_p50_ms"], of_all["first_byte_p99_ms"]) == (10, pytest.approx(98.6))
        assert totals(manager, admin, "cluster_id=1")["hit_ratio"] == 1
        assert totals(manager, admin, "cluster_id=2")["hit_ratio"] == 0
        assert totals(manager, admin, f"host_id={A}")["peer_bytes"] == 300
        assert totals(manager, admin, f"host_id={A}")["store_bytes"] == 7
        assert totals(manager, admin, f"task_id={TASK}")["seed_bytes"] == 500
        assert totals(manager, admin, "application=a'b")["seed_bytes"] == 500
        for query, clusters in (("", [1, 2]), (f"task_id={TASK}", [1]), (f"host_id={B}", [2])):
            assert manager.call("GET", f"/statistics/totals?{query}", admin)["clusters"] == clusters
        for of, names in (("host", [B]), ("task", []), ("application", [])):
            top = manager.call("GET", f"/statistics/top?of={of}", admin)
            assert [item["name"] for item in top["items"]] == names
        top = manager.call("GET", "/statistics/top?of=task&by=seed_bytes&limit=1", admin)["items"]
        assert [(item["name"], item["values"]["downloads_succeeded"]) for item in top] == [(TASK, 1)]
        rows = series(manager, admin, "metric=seed_bytes&metric=hit_ratio&step=60")
        assert sum(rows["seed_bytes"]) == 600
        assert [ratio for ratio in rows["hit_ratio"] if ratio is not None]


def test_messages_of_newer_services_are_passed_over(one: Manager) -> None:
    with channel_to(one.ports.services) as channel:
        stream = ServiceStream(channel, "c" * 32)
        stream.hello()
        stream.say()  # so it looks to whoever does not know the field
        stream.say(report=report())
        assert stream.hear("counted").number == 1


def series(manager: Manager, token: str, query: str) -> Any:
    answer = manager.call("GET", f"/statistics/series?{query}", token)
    assert {len(values) for values in answer["values"].values()} == {len(answer["begins"])}
    return answer["values"]


def test_a_number_is_counted_once_by_whichever_manager(tmp_path: Path, database_address: str) -> None:
    """Said again on another stream, to a manager that began anew, and one after the other."""
    options = options_for(tmp_path, database_address, pace=AT_ONCE)
    one, two = counts(origin_bytes=1), counts(origin_bytes=10)
    with running_manager(options) as manager:
        admin = manager.administrator()
        with channel_to(manager.ports.services) as channel:
            stream = ServiceStream(channel)
            stream.hello()
            told(stream, report(1, all=one))
            again = ServiceStream(channel)
            again.hello()
            told(again, report(1, all=one))
            assert totals(manager, admin)["origin_bytes"] == 1
            told(again, report(2, all=two))
    with running_manager(options) as manager, channel_to(manager.ports.services) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        told(stream, report(2, all=two))
        told(stream, report(1, all=one))
        assert totals(manager, admin)["origin_bytes"] == 11
        told(stream, report(1, life="f" * 32, all=one))
        assert totals(manager, admin)["origin_bytes"] == 12


@pytest.mark.parametrize(
    "wrong",
    [
        report(life="x"), report(0), report(1 << 63), report(all=counts(peer_bytes=(1 << 44) + 1)),
        report(levels=manager_pb2.Levels(tasks=1 << 60)), report(tasks=[part("", peer_bytes=1)]),
        report(applications=[part("a\0")]), report(applications=[part("x" * 256)]),
        report(tasks=[part(f"{number}") for number in range(17)]),
    ],
)  # fmt: skip
def test_reports_that_are_none(one: Manager, wrong: manager_pb2.Report) -> None:
    with channel_to(one.ports.services) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        stream.say(report=wrong)
        code, why = stream.ended()
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "report" in why


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    """For what leaves nothing behind."""
    with running_manager(options_for(tmp_path_factory.mktemp("manager"))) as running:
        yield running


def test_questions_that_are_none(one: Manager) -> None:
    admin = one.administrator()
    for path, field in {
        "series": "metric",
        "series?metric=nonsense": "metric",
        f"totals?host_id={A}&task_id={TASK}": "host",
        "totals?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z": "from",
        "series?metric=tasks&from=2000-01-01T00:00:00Z&step=60": "step",
        "top?of=host&by=hit_ratio": "by",
        "totals?cluster_id=0": "cluster_id",
    }.items():
        answer = one.ask("GET", f"/statistics/{path}", admin)
        assert answer.status_code == 422, path
        assert any(field in each["field"] for each in answer.json()["errors"]), answer.text


def test_statistics_of_clusters_that_one_may_not_see_are_not_there(manager: Manager) -> None:
    admin = manager.administrator()
    alice = manager.person(admin, "alice")
    manager.call("PUT", "/clusters/2/members/alice", admin, 204, json={"role": "viewer"})
    with channel_to(manager.ports.services) as channel:
        peer, seed = ServiceStream(channel), ServiceStream(channel, B)
        peer.hello()
        seed.hello(kind=manager_pb2.SEED)
        levels = manager_pb2.Levels(tasks=5)
        told(peer, report(all=counts(peer_bytes=1), tasks=[part(TASK, peer_bytes=1)], levels=levels))
        told(
            seed, report(all=counts(origin_bytes=2), tasks=[part(OTHER_TASK, origin_bytes=2)], levels=levels)
        )
        assert [totals(manager, alice)[name] for name in ("peer_bytes", "origin_bytes", "tasks")] == [0, 2, 5]
        for hidden in ("cluster_id=1", f"host_id={A}", f"task_id={TASK}"):
            values = totals(manager, alice, hidden)
            assert not any(values.values()), hidden
            assert manager.call("GET", f"/statistics/totals?{hidden}", alice)["clusters"] == []
        for by, names in (("peer_bytes", []), ("origin_bytes", [OTHER_TASK])):
            found = manager.call("GET", f"/statistics/top?of=task&by={by}", alice)["items"]
            assert [item["name"] for item in found] == names
        assert sum(series(manager, alice, "metric=peer_bytes&metric=origin_bytes")["peer_bytes"]) == 0


@contextmanager
def database_of(address: str, folder: Path) -> Iterator[Database]:
    with Database(parse_database(address, folder / "manager.db")) as database:
        upgrade(database)
        yield database


def arrived(host_id: str, number: int, tasks: dict[str, dict[str, int]], **amounts: int) -> Arrived:
    parts = {name: in_order(part) for name, part in tasks.items()}
    return Arrived(host_id, 1, Told(LIFE, number, in_order(amounts), parts, {}, (0,) * len(LEVELS)))


def in_order(amounts: dict[str, int]) -> tuple[int, ...]:
    return tuple(amounts.get(name, 0) for name in AMOUNTS)


def count_rows(database: Database, of: Of, resolution_s: int) -> int:
    query = select(func.count()).where(STATISTIC.c.kind == of, STATISTIC.c.resolution_s == resolution_s)
    with database.reading() as session:
        return session.execute(query.select_from(STATISTIC)).scalar_one()


def total(database: Database, of: Of, resolution_s: int) -> int:
    query = select(func.sum(STATISTIC.c.peer_bytes)).where(STATISTIC.c.kind == of)
    with database.reading() as session:
        return int(session.execute(query.where(STATISTIC.c.resolution_s == resolution_s)).scalar_one())


def test_rows_are_bounded_and_nothing_of_the_sum_is_lost(database_address: str, tmp_path: Path) -> None:
    """More tasks than are kept: the largest stay, the others are one row; what is old goes."""
    at = 1_700_000_000 // 3600 * 3600
    with database_of(database_address, tmp_path) as database:
        for number in range(1, 40):
            tasks = {f"{number * 16 + place:064x}": {"peer_bytes": number} for place in range(16)}
            with database.writing() as session:
                new = write_reports(session, [arrived(A, number, tasks, peer_bytes=16 * number + 1)], at)
            assert len(new) == 1
        whole = sum(16 * number + 1 for number in range(1, 40))
        tidy(database, at + 30)
        for grain in GRAINS[Of.TASK]:
            assert count_rows(database, Of.TASK, grain.resolution_s) == grain.most + 1
            assert total(database, Of.TASK, grain.resolution_s) == whole
        with database.reading() as session:
            kept = session.scalars(select(STATISTIC.c.subject).where(STATISTIC.c.kind == Of.TASK)).all()
        assert max(kept) == f"{39 * 16 + 15:064x}"
        for of in Of:
            for grain in GRAINS[of]:
                tidy(database, at + grain.kept_s + grain.resolution_s)
                assert count_rows(database, of, grain.resolution_s) == 0


def test_a_batch_has_so_many_tasks_at_most() -> None:
    reports = [
        arrived(
            f"{host:032x}", 1, {f"{host * 16 + n:064x}": {"peer_bytes": 1} for n in range(16)}, peer_bytes=20
        )
        for host in range(MOST_PARTS // 16 + 10)
    ]
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in sums_of(reports, 10**9).rows() if "task" in row]
    assert len(rows) == 2 * (MOST_PARTS + 1)
    assert sum(row["peer_bytes"] for row in rows) == 2 * 20 * len(reports)


def test_levels_of_clusters_are_those_of_hosts_that_are_here(manager: Manager, tmp_path: Path) -> None:
    admin = manager.administrator()
    with channel_to(manager.ports.services) as channel:
        first, second = ServiceStream(channel), ServiceStream(channel, B)
        for stream, tasks in ((first, 3), (second, 4)):
            stream.hello()
            told(stream, report(levels=manager_pb2.Levels(tasks=tasks)))
        second.say(leaving=manager_pb2.Leaving())
        until(lambda: totals(manager, admin)["tasks"] == 3)
        if manager.options.database.drivername == "sqlite":
            return  # the file is the manager's alone
        minute = int(time.time()) // 60 * 60
        with Database(manager.options.database) as database:
            tidy(database, minute)
            tidy(database, minute + 1)
        shown = manager.call("GET", "/statistics/series?metric=tasks&step=60", admin)
        begins = [datetime.fromisoformat(begin).timestamp() for begin in shown["begins"]]
        # At another minute the manager itself may have looked, when both were here.
        assert dict(zip(begins, shown["values"]["tasks"], strict=True))[minute] == 3


def test_sums_are_added_and_levels_set(database_address: str, tmp_path: Path) -> None:
    key = ("host", 60, 60, A, 1)
    with database_of(database_address, tmp_path) as database, database.writing() as session:
        for tasks in (1, 2, None):
            add_rows(session, [(*key, *(5 for _ in AMOUNTS), *(tasks for _ in LEVELS))])
        found = session.execute(select(STATISTIC)).mappings().one()
        assert {found[name] for name in AMOUNTS} == {15}
        assert {found[name] for name in LEVELS} == {2}


def test_a_report_that_cannot_be_written_is_counted_later(
    tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("no beat|answers again")
    with running_postgres() as server:
        options = options_for(tmp_path, server.url(server.new_database()), pace=AT_ONCE)
        with running_manager(options) as manager:
            admin = manager.administrator()
            with channel_to(manager.ports.services) as channel:
                stream = ServiceStream(channel)
                stream.hello()
                server.stop()
                stream.say(report=report(all=counts(peer_bytes=5)))
                until(lambda: manager.ask("GET", "/statistics/totals", admin).status_code == 503)
                server.start_again()
                until(lambda: manager.ask("GET", "/statistics/totals", admin).status_code == 200)
                told(stream, report(all=counts(peer_bytes=5)))
                assert totals(manager, admin)["peer_bytes"] == 5


def test_replicas_count_one_report_once(tmp_path: Path, postgres: Postgres) -> None:
    """The same report at both, at once, of many hosts."""
    address = postgres.url(postgres.new_database())
    options = options_for(tmp_path, address, pace=replace(AT_ONCE, gather_s=0.2))
    hosts = [f"{number:032x}" for number in range(40)]
    with running_manager(options) as one, running_manager(options) as two:
        admin = one.administrator()
        with channel_to(one.ports.services) as first, channel_to(two.ports.services) as second:
            streams = []
            for channel in (first, second):
                for host in hosts:
                    stream = ServiceStream(channel, host)
                    stream.hello()
                    stream.say(report=report(all=counts(peer_bytes=1)))
                    streams.append(stream)
            for stream in streams[len(hosts) :]:
                stream.hear("counted")
            assert totals(one, admin)["peer_bytes"] == len(hosts)


def link(manager: Manager, folder: Path, counted: Counter[str], life: str) -> ManagerLink:
    ledger = Ledger(life, lambda: counted)
    return ManagerLink(
        [f"127.0.0.1:{manager.ports.services}"],
        facts(),
        None,
        LiveConfiguration(folder / "kept.json", "scheduler", lambda _: None),
        lambda call: call(),
        reporting=Reporting(ledger, folder / "figures.json"),
    )


def test_a_link_tells_what_is_counted_also_over_restarts(tmp_path: Path, database_address: str) -> None:
    options = options_for(tmp_path, database_address, pace=AT_ONCE)
    counted = Counter(peer_bytes=5)
    with running_manager(options) as manager:
        admin = manager.administrator()
        with link(manager, tmp_path, counted, LIFE):
            until(lambda: totals(manager, admin)["peer_bytes"] == 5)
            counted["peer_bytes"] += 2
        # What it said last is counted, or kept, or both, when it did not hear that any more: it counts once.
        assert (tmp_path / "figures.json").exists()
        with link(manager, tmp_path, Counter(peer_bytes=10), "e" * 32):
            until(lambda: totals(manager, admin)["peer_bytes"] == 17)
            assert not (tmp_path / "figures.json").exists()


def test_metrics_have_traffic_by_cluster() -> None:
    tally = Tally()
    tally.note_report(1, {"origin_bytes": 3, "downloads_failed": 1})
    text = tally.render(1, {}).decode()
    assert 'cafs_manager_traffic_bytes_total{cluster="1",source="origin"} 3' in text
    assert 'cafs_manager_downloads_total{cluster="1",result="failed"} 1' in text
