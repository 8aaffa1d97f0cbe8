"""Jobs that are made again and again: by REST, and when they are due, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cafs.manager.database import Database, parse_database
from cafs.manager.jobs.cron import next_time
from cafs.manager.jobs.ledger import add_job, forget_old_jobs, list_jobs
from cafs.manager.jobs.schedules import add_schedule, get_schedule, start_due
from cafs.manager.jobs.states import JobState
from cafs.manager.migrate import upgrade
from cafs.manager.tables import JobEvent, Schedule
from tests.support.at_once import at_once
from tests.support.logs import ExpectedLogs
from tests.support.manager import Manager
from tests.support.postgres import Postgres

JOB = {"kind": "gc", "cluster_id": 1}
BODY: dict[str, Any] = {"name": "tidy", "cron": "30 4 * * MON", "timezone": "Europe/Berlin", "job": JOB}
WHOLE = {
    **JOB, "spec": {"idle_s": 0}, "scope": {"hosts": "all"}, "concurrency": 1, "retries": 0, "timeout_s": 60,
}  # fmt: skip
YEARLY = {"name": "n", "cluster_id": 1, "cron": "0 0 1 1 *", "timezone": "UTC", "enabled": True, "job": WHOLE}


def test_made_changed_and_removed(manager: Manager) -> None:
    admin = manager.administrator()
    answer = manager.ask("POST", "/schedules", admin, json=BODY)
    assert answer.status_code == 201, answer.text
    made, etag = answer.json(), answer.headers["ETag"]
    due = datetime.fromisoformat(made["next_at"])
    assert due == next_time(BODY["cron"], BODY["timezone"], datetime.now(UTC))
    assert made["job"]["spec"] == {"idle_s": 0}
    path = f"/schedules/{made['id']}"
    changed = manager.call(
        "PATCH", path, admin, json={"cron": "0 5 1 1 *", "enabled": False}, headers={"If-Match": etag}
    )
    assert (changed["cron"], changed["timezone"], changed["enabled"]) == ("0 5 1 1 *", "Europe/Berlin", False)
    stale = manager.ask("PATCH", path, admin, json={"name": "x"}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json()["differs"]) == (409, {"name": {"is": "tidy", "sent": "x"}})
    assert manager.ask("PATCH", path, admin, json={"name": "x"}).status_code == 428
    other = {"job": {**JOB, "cluster_id": 2}}
    moved = manager.call("PATCH", path, admin, json=other, headers={"If-Match": "*"})
    assert (moved["cluster_id"], moved["job"]["cluster_id"]) == (2, 2)
    assert [found["id"] for found in manager.call("GET", "/schedules", admin)["items"]] == [made["id"]]
    manager.call("DELETE", path, admin, 204, headers={"If-Match": "*"})
    assert manager.ask("GET", path, admin).status_code == 404
    actions = [row["action"] for row in manager.call("GET", "/audit", admin)["items"]]
    assert actions[:4] == ["schedule.delete", "schedule.change", "schedule.change", "schedule.create"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cron": "61 * * * *"}, "body.cron"),
        ({"cron": "0 0 31 2 *"}, "body.cron"),
        ({"cron": "nonsense of letters"}, "body.cron"),
        ({"cron": "@daily"}, "body.cron"),
        ({"cron": "*/5 * * * * *"}, "body.cron"),
        ({"timezone": "Mars/Olympus"}, "body.timezone"),
        ({"timezone": "../../etc/passwd"}, "body.timezone"),
        ({"job": {**JOB, "spec": {"idle_s": -1}}}, "body.job.gc.spec.idle_s"),
        ({"job": {**JOB, "kind": "unheard-of"}}, "body.job"),
    ],
)
def test_what_cannot_be_is_refused(manager: Manager, changes: dict[str, Any], field: str) -> None:
    admin = manager.administrator()
    answer = manager.ask("POST", "/schedules", admin, json=BODY | changes)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:cafs:problem:invalid")
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert manager.call("GET", "/schedules", admin)["items"] == []


def test_roles_hold_in_their_clusters(manager: Manager) -> None:
    admin = manager.administrator()
    here = manager.call("POST", "/schedules", admin, 201, json=BODY)["id"]
    away = {"job": {**JOB, "cluster_id": 2}}
    there = manager.call("POST", "/schedules", admin, 201, json=BODY | away)["id"]
    person = manager.person(admin, "op")
    manager.call("PUT", "/clusters/1/members/op", admin, 204, json={"role": "operator"})
    any_match = {"If-Match": "*"}
    assert [found["id"] for found in manager.call("GET", "/schedules", person)["items"]] == [here]
    assert manager.ask("GET", f"/schedules/{there}", person).status_code == 404
    for method, path, body, status in (
        ("PATCH", f"/schedules/{there}", {"enabled": False}, 404),
        ("DELETE", f"/schedules/{there}", None, 404),
        ("PATCH", f"/schedules/{here}", away, 403),
        ("POST", "/schedules", BODY | away, 403),
        ("DELETE", f"/schedules/{here}", None, 204),
    ):
        assert manager.ask(method, path, person, json=body, headers=any_match).status_code == status


def schedule_that_is_due(database: Database) -> int:
    with database.writing() as session:
        made = add_schedule(session, who="root", **YEARLY)
    make_due(database, made.id)
    return made.id


def make_due(database: Database, schedule_id: int) -> None:
    with database.writing() as session:
        get_schedule(session, schedule_id).next_at = datetime.now(UTC) - timedelta(days=400)


def made_by(database: Database) -> list[str]:
    with database.reading() as session:
        return [job.who for job in list_jobs(session, clusters=None)]


def test_a_job_is_made_once_when_it_is_due(
    database_address: str, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("schedule 1 is left out this time: its job 1 still runs")
    with Database(parse_database(database_address, tmp_path / "m.db")) as database:
        upgrade(database)
        number = schedule_that_is_due(database)
        start_due(database)
        start_due(database)  # what was missed more than once is made once
        assert made_by(database) == ["schedule 1 n"]
        make_due(database, number)
        start_due(database)  # the first one has not ended
        assert len(made_by(database)) == 1
        with database.writing() as session:
            schedule = session.get(Schedule, number)
            assert schedule is not None
            assert schedule.last_job_id == 1
            assert schedule.next_at > datetime.now(UTC)
            [job] = list_jobs(session, clusters=None)
            job.state = JobState.SUCCEEDED
        make_due(database, number)
        start_due(database)
        assert len(made_by(database)) == 2
        with database.writing() as session:
            get_schedule(session, number).enabled = False
        make_due(database, number)
        start_due(database)
        assert len(made_by(database)) == 2


def test_one_that_cannot_be_started_keeps_no_other(
    database_address: str, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("a mistake in schedule 1")
    with Database(parse_database(database_address, tmp_path / "m.db")) as database:
        upgrade(database)
        schedule_that_is_due(database)
        with database.writing() as session:
            get_schedule(session, 1).job = {"kind": "of another version"}
        schedule_that_is_due(database)
        start_due(database)
        assert made_by(database) == ["schedule 2 n"]


def test_old_jobs_are_forgotten(database_address: str, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with Database(parse_database(database_address, tmp_path / "m.db")) as database:
        upgrade(database)
        with database.writing() as session:
            for days in (None, 40, 5, 4, None, 3):
                job = add_job(session, who="root", **WHOLE)
                job.ended_at = now - timedelta(days=days) if days is not None else None
        with database.writing() as session:
            forget_old_jobs(session, most=2)
            assert [job.id for job in list_jobs(session, clusters=None)] == [6, 5, 4, 1]
            assert {event.job_id for event in session.scalars(select(JobEvent))} == {1, 4, 5, 6}


def test_replicas_make_it_once(postgres: Postgres) -> None:
    address = parse_database(postgres.url(postgres.new_database()), Path("/nowhere"))
    with Database(address) as database:
        upgrade(database)
        for _ in range(10):
            schedule_that_is_due(database)
        at_once(4, partial(start_due, database))
        assert sorted(made_by(database)) == sorted(f"schedule {number} n" for number in range(1, 11))


def test_clocks_that_change() -> None:
    """In Berlin, 02:30 is left out on 2026-03-29 and comes twice on 2026-10-25."""
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert next_time("30 2 * * *", "Europe/Berlin", spring) == datetime(2026, 3, 29, 1, 0, tzinfo=UTC)
    autumn = datetime(2026, 10, 24, 12, tzinfo=UTC)
    first = next_time("30 2 * * *", "Europe/Berlin", autumn)
    assert first == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    tomorrow = datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    assert next_time("30 2 * * *", "Europe/Berlin", first) == tomorrow
    second_ten_past_two = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # of who starts a manager then
    assert next_time("30 2 * * *", "Europe/Berlin", second_ten_past_two) == tomorrow
    assert next_time("30 * * * *", "Europe/Berlin", second_ten_past_two) == first + timedelta(hours=1)
