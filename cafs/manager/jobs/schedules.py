"""Schedules in the database: made, listed, changed, removed, and jobs made when they are due."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cafs.errors import NotFoundError, StateError, UnavailableError, UsageError
from cafs.manager.database import Database
from cafs.manager.jobs.cron import next_time
from cafs.manager.jobs.ledger import add_job
from cafs.manager.jobs.states import ACTIVE
from cafs.manager.tables import Job, Schedule

log = logging.getLogger(__name__)

MOST = 1000
_AT_ONCE = 50


def list_schedules(
    session: Session, clusters: Collection[int] | None, after: int, limit: int
) -> list[Schedule]:
    """In the order of their numbers; ``clusters``: only of these, None: of any."""
    query = select(Schedule).where(Schedule.id > after).order_by(Schedule.id).limit(limit)
    if clusters is not None:
        query = query.where(Schedule.cluster_id.in_(clusters))
    return list(session.scalars(query))


def get_schedule(session: Session, schedule_id: int, *, to_change: bool = False) -> Schedule:
    """One of them.

    Raises:
        NotFoundError: there is none of that number.
    """
    found = session.get(Schedule, schedule_id, with_for_update=to_change)
    if found is None:
        raise NotFoundError(f"there is no schedule {schedule_id}")
    return found


def add_schedule(session: Session, *, who: str, **fields: Any) -> Schedule:
    """A new one: see ``Schedule``.

    Raises:
        StateError: there are too many.
        UsageError: it cannot be due.
    """
    if (session.scalar(select(func.count()).select_from(Schedule)) or 0) >= MOST:
        raise StateError(f"there are {MOST} schedules: remove some")
    now = datetime.now(UTC)
    schedule = Schedule(
        **fields,
        who=who,
        created_at=now,
        next_at=next_time(fields["cron"], fields["timezone"], now),
        last_job_id=None,
        version=1,
    )
    session.add(schedule)
    session.flush()
    return schedule


def change_schedule(schedule: Schedule, changes: Mapping[str, Any]) -> None:
    """Set fields; when it is due next is found anew.

    Raises:
        UsageError: as ``add_schedule``.
    """
    for name, value in changes.items():
        setattr(schedule, name, value)
    schedule.next_at = next_time(schedule.cron, schedule.timezone, datetime.now(UTC))
    schedule.version += 1


def start_due(database: Database) -> None:
    """Make the jobs of schedules that are due. What was missed while no manager was there is made once.

    Replicas do this side by side, each with rows that nobody else has.

    Raises:
        UnavailableError: the database does not answer.
    """
    due = select(Schedule.id).where(Schedule.enabled, Schedule.next_at <= datetime.now(UTC))
    with database.reading() as session:
        found = list(session.scalars(due.order_by(Schedule.next_at).limit(_AT_ONCE)))
    for schedule_id in found:
        try:
            _start_one(database, schedule_id)
        except UnavailableError:
            raise
        except Exception:  # it must not keep others, nor jobs, from going on
            log.exception("a mistake in schedule %d", schedule_id)


def _start_one(database: Database, schedule_id: int) -> None:
    with database.writing() as session:
        mine = select(Schedule).where(
            Schedule.id == schedule_id, Schedule.enabled, Schedule.next_at <= datetime.now(UTC)
        )
        schedule = session.scalar(mine.with_for_update(skip_locked=True))
        if schedule is not None:
            _start(session, schedule)


def _start(session: Session, schedule: Schedule) -> None:
    try:
        schedule.next_at = next_time(schedule.cron, schedule.timezone, datetime.now(UTC))
    except UsageError as e:  # what it was made with is known no more
        log.warning("schedule %d is switched off: %s", schedule.id, e)
        schedule.enabled = False
        return
    last = session.get(Job, schedule.last_job_id) if schedule.last_job_id is not None else None
    if last is not None and last.state in ACTIVE:
        log.warning("schedule %d is left out this time: its job %d still runs", schedule.id, last.id)
        return
    try:
        job = add_job(session, who=f"schedule {schedule.id} {schedule.name}"[:64], **schedule.job)
    except StateError as e:
        log.warning("schedule %d is left out this time: %s", schedule.id, e)
        return
    schedule.last_job_id = job.id
