"""What is written of hosts' parts in jobs, and what a replica does itself, without a server around it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cafs.manager.clusters.hosts import write_arrivals
from cafs.manager.database import Database, parse_database
from cafs.manager.jobs.board import Board
from cafs.manager.jobs.conversions import Conversions, Converter
from cafs.manager.jobs.ledger import add_job, cancel_job, get_job, list_parts, retry_job
from cafs.manager.jobs.states import PartState, Progress, Report
from cafs.manager.jobs.steps import step_all
from cafs.manager.jobs.sums import JobSums
from cafs.manager.migrate import upgrade
from cafs.manager.replica import Pace, ThisReplica
from cafs.manager.tables import JobTarget
from cafs.manager.tally import Tally
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S
from tests.support.postgres import Postgres

USUAL: dict[str, Any] = {
    "cluster_id": 1, "scope": {"hosts": "all"}, "concurrency": 9, "retries": 0, "timeout_s": 3600,
}  # fmt: skip


@pytest.fixture
def database(database_address: str, tmp_path: Path) -> Iterator[Database]:
    with Database(parse_database(database_address, tmp_path / "m.db")) as opened:
        upgrade(opened)
        yield opened


def job_of(database: Database, kind: str, spec: dict[str, Any]) -> int:
    """One whose parts are told."""
    with database.writing() as session:
        made = add_job(session, who="root", kind=kind, spec=spec, **USUAL)
    step_all(database)
    return made.id


def parts(database: Database, number: int) -> list[JobTarget]:
    with database.reading() as session:
        return list_parts(session, number, state=None, after="", limit=10)


def host_row(number: int) -> dict[str, Any]:
    told = dict.fromkeys(("hostname", "address", "idc", "location", "cafs_version", "refused"), "")
    now = datetime.now(UTC)
    return {
        **told, "id": f"{number:032x}", "kind": "peer", "cluster_id": 1, "running": None,
        "replica_id": "r" * 32, "active": True, "since": now, "first_seen_at": now,
    }  # fmt: skip


def test_a_word_that_cannot_be_kept_keeps_none_of_the_others(
    postgres: Postgres, expected_logs: ExpectedLogs
) -> None:
    """PostgreSQL's JSON has no infinity."""
    expected_logs.expect("each word is written by itself")
    expected_logs.expect("what host 0+1 says is not written")
    address = parse_database(postgres.url(postgres.new_database()), Path("/nowhere"))
    with Database(address) as database:
        upgrade(database)
        with database.writing() as session:
            write_arrivals(session, [host_row(1), host_row(2)])
        number = job_of(database, "sync", {})

        async def note_both() -> None:
            board = Board(database, lambda _hosts: None)
            await board.load()
            for host, amount in ((1, math.inf), (2, 2.0)):
                word = Report(attempt=1, progress=Progress.DONE, result={"a": amount})
                board.note(f"{host:032x}", number, word)
            assert await board.flush()

        asyncio.run(note_both())
        assert [(part.state, part.result) for part in parts(database, number)] == [
            (PartState.TOLD, None), (PartState.SUCCEEDED, {"a": 2.0}),
        ]  # fmt: skip


def test_what_a_replica_has_claimed_and_is_not_at_it_claims_again(database: Database) -> None:
    """As after the database was away just when it had been done."""
    replica = ThisReplica(database, Tally(), Pace())
    replica.join("here")
    spec = {"image": "r.test/a:v1", "target": None, "bound": None, "platform": None, "dictionaries": []}
    numbers = [job_of(database, "convert", spec) for _ in range(2)]
    with database.writing() as session:
        for number in numbers:
            [part] = list_parts(session, number, state=None, after="", limit=10)
            part.worker = replica.id

    async def convert_all() -> None:
        ended = asyncio.Semaphore(0)
        converter = Converter((sys.executable, "-c", "print('[]')"), at_once=2)
        conversions = Conversions(database, replica.id, converter, ended.release)
        runs = [asyncio.create_task(conversions.run()) for _ in range(converter.at_once)]
        async with asyncio.timeout(PATIENCE_S):
            for _ in numbers:
                await ended.acquire()
        for run in runs:
            run.cancel()
        await asyncio.wait(runs)

    asyncio.run(convert_all())
    assert [part.state for number in numbers for part in parts(database, number)] == ["succeeded"] * 2


def test_jobs_that_have_ended_are_added_up_once(database: Database) -> None:
    def seen() -> tuple[dict[str, int], int]:
        with database.reading() as session:
            of = sums.of(session, [get_job(session, number)])[number]
            return of.counts, of.done_bytes

    def change(done_bytes: int) -> None:
        with database.writing() as session:
            list_parts(session, number, state=None, after="", limit=1)[0].done_bytes = done_bytes

    sums = JobSums()
    with database.writing() as session:
        write_arrivals(session, [host_row(1), host_row(2)])
    number = job_of(database, "sync", {})
    change(5)
    assert seen() == ({"told": 2}, 5)
    change(7)
    assert seen() == ({"told": 2}, 7)
    with database.writing() as session:
        cancel_job(session, get_job(session, number), "root")
    assert seen() == ({"cancelled": 2}, 7)
    change(9)  # as nobody does, which shows that nobody looks
    assert seen() == ({"cancelled": 2}, 7)
    with database.writing() as session:
        retry_job(session, get_job(session, number), "root")
    assert seen() == ({"waiting": 2}, 9)
