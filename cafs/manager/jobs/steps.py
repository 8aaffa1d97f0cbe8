"""Brings jobs on: chooses their hosts, has them told, sees that they are done. In threads.

A step is one short transaction that holds the job's row. In PostgreSQL replicas do this side by side: each
takes rows that nobody else has (SKIP LOCKED), and what a killed one held is free as soon as its connection
ends. Nothing of a job is in memory only, so any replica goes on where another one stopped.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, false, func, insert, select, true
from sqlalchemy.orm import Session

from cafs.errors import UnavailableError
from cafs.manager.clusters.catalogue import get_cluster
from cafs.manager.database import Database
from cafs.manager.jobs.choosing import Choice, choose
from cafs.manager.jobs.ledger import end_job, note_event, note_jobs, part_of, write_part
from cafs.manager.jobs.states import ACTIVE, CONVERT, OPEN, JobState, PartState, Seen, next_step, told
from cafs.manager.tables import Host, Job, JobTarget

log = logging.getLogger(__name__)

_AT_ONCE = 500
"""Rows in one statement: SQLite takes 32,766 values."""
THE_MANAGER = Choice("0" * 32, "manager", True)
"""The only host of jobs that replicas do themselves."""
_HOSTS = {"scheduler": "peer", "seed": "seed"}
"""Of which kind those are that do a job, by the cluster's kind."""


def step_all(database: Database) -> None:
    """One step of each job that has not ended and that nobody else is at.

    Raises:
        UnavailableError: the database does not answer.
    """
    with database.reading() as session:
        found = list(session.scalars(select(Job.id).where(Job.state.in_(ACTIVE)).order_by(Job.id)))
    for job_id in found:
        try:
            with database.writing() as session:
                mine = select(Job).where(Job.id == job_id, Job.state.in_(ACTIVE))
                job = session.scalar(mine.with_for_update(skip_locked=True))
                if job is not None:
                    _step(session, job)
        except UnavailableError:
            raise
        except Exception:  # it must not keep others from going on
            log.exception("a mistake in job %d", job_id)


def _step(session: Session, job: Job) -> None:
    if job.state == JobState.PENDING:
        _begin(session, job)
        return
    if job.ends_by is None:  # wanted again
        job.ends_by = datetime.now(UTC) + timedelta(seconds=job.timeout_s)
    step = next_step(_seen(session, job))
    if step.release:
        _release(session, job, step.release)
    if step.ends is not None:
        why = f"not done within {job.timeout_s} s" if step.give_up else ""
        end_job(session, job, step.ends, open_parts=PartState.FAILED, why=why)
        note_event(session, job.id, step.ends.value, why)


def _begin(session: Session, job: Job) -> None:
    kind = _HOSTS[get_cluster(session, job.cluster_id).kind]
    chosen = [THE_MANAGER]
    if job.kind != CONVERT:
        query = select(Host.id, Host.hostname, Host.active)
        rows = session.execute(query.where(Host.cluster_id == job.cluster_id, Host.kind == kind))
        chosen = choose((Choice(*row) for row in rows), job.scope, repr(sorted(job.spec.items())))
    if not chosen:
        why = f"no {kind} that is meant is here"
        end_job(session, job, JobState.FAILED, open_parts=PartState.FAILED, why=why)
        note_event(session, job.id, "failed", why)
        return
    _add_parts(session, job, chosen)
    job.state, job.ends_by = JobState.RUNNING, datetime.now(UTC) + timedelta(seconds=job.timeout_s)
    job.version += 1
    session.flush()
    note_event(session, job.id, "began", f"hosts: {len(chosen)}")
    note_jobs(session)
    _step(session, job)


def _add_parts(session: Session, job: Job, chosen: list[Choice]) -> None:
    usual = {
        "job_id": job.id,
        "state": PartState.WAITING,
        "attempt": 0,
        "failures": 0,
        "done_bytes": 0,
        "total_bytes": 0,
        "why": "",
        "changed_at": datetime.now(UTC),
    }
    rows = [{**usual, "host_id": host.id, "hostname": host.hostname} for host in chosen]
    for first in range(0, len(rows), _AT_ONCE):
        session.execute(insert(JobTarget), rows[first : first + _AT_ONCE])


def _seen(session: Session, job: Job) -> Seen:
    here = _is_here(job)
    query = (
        select(JobTarget.state, here, func.count())
        .outerjoin(Host, Host.id == JobTarget.host_id)
        .where(JobTarget.job_id == job.id)
        .group_by(JobTarget.state, here)
    )
    counts = {(state, bool(active)): count for state, active, count in session.execute(query)}
    return Seen(
        open=sum(count for (state, _), count in counts.items() if state in OPEN),
        waiting_here=counts.get((PartState.WAITING, True), 0),
        told_here=counts.get((PartState.TOLD, True), 0),
        done=sum(count for (state, _), count in counts.items() if state == PartState.SUCCEEDED),
        total=sum(counts.values()),
        concurrency=job.concurrency,
        late=job.ends_by is not None and job.ends_by <= datetime.now(UTC),
    )


def _is_here(job: Job) -> ColumnElement[bool]:
    """Whether a part's host is, of those that are joined from the left."""
    return func.coalesce(Host.active, true() if job.kind == CONVERT else false())


def _release(session: Session, job: Job, count: int) -> None:
    """Those that failed least often go first."""
    waiting = (
        select(JobTarget)
        .outerjoin(Host, Host.id == JobTarget.host_id)
        .where(JobTarget.job_id == job.id, JobTarget.state == PartState.WAITING, _is_here(job))
        .order_by(JobTarget.failures, JobTarget.host_id)
        .limit(count)
    )
    for target in session.scalars(waiting):
        write_part(target, told(part_of(target)))
        target.done_bytes = target.total_bytes = 0
        target.worker = None
    note_jobs(session)
