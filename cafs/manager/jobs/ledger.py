"""Jobs in the database: made, listed, looked at, cancelled, wanted again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, defer
from sqlalchemy.orm.attributes import set_committed_value

from cafs.errors import NotFoundError, StateError
from cafs.manager.clusters.catalogue import note_change
from cafs.manager.jobs.states import (
    ACTIVE,
    OPEN,
    JobState,
    Part,
    PartState,
    Progress,
    Report,
    cancelled,
    reported,
    retried,
)
from cafs.manager.tables import Job, JobEvent, JobTarget

MOST_ACTIVE = 200
"""Jobs of all clusters that have not ended."""
MOST_ENDED, FORGOTTEN_AFTER = 2000, timedelta(days=30)


def note_jobs(session: Session) -> None:
    """Tell all replicas that jobs are not what they were, once this is committed."""
    note_change(session, "jobs")


def note_event(session: Session, job_id: int, what: str, detail: str = "") -> None:
    """Write down what happened."""
    session.add(JobEvent(job_id=job_id, at=datetime.now(UTC), what=what, detail=detail[:1000]))


def add_job(session: Session, *, who: str, **fields: Any) -> Job:
    """A new one: see ``Job``.

    Raises:
        StateError: there are too many that have not ended.
    """
    _check_room(session)
    job = Job(
        who=who,
        state=JobState.PENDING,
        why="",
        created_at=datetime.now(UTC),
        ends_by=None,
        ended_at=None,
        version=1,
        **fields,
    )
    session.add(job)
    session.flush()
    note_event(session, job.id, "created", f"by {who}")
    note_jobs(session)
    return job


def _check_room(session: Session) -> None:
    if (session.scalar(select(func.count()).where(Job.state.in_(ACTIVE))) or 0) >= MOST_ACTIVE:
        raise StateError(f"{MOST_ACTIVE} jobs have not ended yet: wait, or cancel some")


def get_job(session: Session, job_id: int, *, to_change: bool = False) -> Job:
    """One of them.

    Raises:
        NotFoundError: there is none of that number.
    """
    job = session.get(Job, job_id, with_for_update=to_change)
    if job is None:
        raise NotFoundError(f"there is no job {job_id}")
    return job


def list_jobs(
    session: Session,
    *,
    clusters: Collection[int] | None,
    cluster_id: int | None = None,
    state: str | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[Job]:
    """The newest first.

    Args:
        session: Where to look.
        clusters: Only of these; None: of any.
        cluster_id: Only of this one.
        state: Only those that are so.
        before: Older than this number.
        limit: How many at most.
    """
    query = select(Job).order_by(Job.id.desc()).limit(limit)
    if clusters is not None:
        query = query.where(Job.cluster_id.in_(clusters))
    if cluster_id is not None:
        query = query.where(Job.cluster_id == cluster_id)
    if state is not None:
        query = query.where(Job.state == state)
    if before is not None:
        query = query.where(Job.id < before)
    return list(session.scalars(query))


def list_parts(
    session: Session, job_id: int, *, state: str | None, after: str, limit: int, results: bool = True
) -> list[JobTarget]:
    """Of a job's hosts, in the order of their ids; without ``results`` these are neither read nor there."""
    query = select(JobTarget).where(JobTarget.job_id == job_id, JobTarget.host_id > after)
    if state is not None:
        query = query.where(JobTarget.state == state)
    if not results:
        query = query.options(defer(JobTarget.result))
    found = list(session.scalars(query.order_by(JobTarget.host_id).limit(limit)))
    if not results:
        for part in found:
            set_committed_value(part, "result", None)
    return found


def list_events(session: Session, job_id: int, after: int, limit: int) -> list[JobEvent]:
    """In the order in which they happened."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.id > after)
    return list(session.scalars(query.order_by(JobEvent.id).limit(limit)))


def cancel_job(session: Session, job: Job, who: str) -> None:
    """Hosts are told to stop. The job was read to be changed.

    Raises:
        StateError: it has ended.
    """
    end_job(session, job, cancelled(JobState(job.state)), open_parts=PartState.CANCELLED)
    note_event(session, job.id, "cancelled", f"by {who}")


def retry_job(session: Session, job: Job, who: str) -> None:
    """What failed or was cancelled is done again. The job was read to be changed.

    Raises:
        StateError: it has not ended, all of it was done, or too many others have not ended.
    """
    there = select(func.count()).where(JobTarget.job_id == job.id)
    state = retried(JobState(job.state), chosen=bool(session.scalar(there)))
    _check_room(session)
    job.state = state
    undone = update(JobTarget).where(JobTarget.job_id == job.id, JobTarget.state != PartState.SUCCEEDED)
    session.execute(undone.values(state=PartState.WAITING, failures=0, changed_at=datetime.now(UTC)))
    job.why, job.ended_at, job.ends_by = "", None, None
    job.version += 1
    note_event(session, job.id, "retried", f"by {who}")
    note_jobs(session)


def end_job(session: Session, job: Job, state: JobState, *, open_parts: PartState, why: str = "") -> None:
    """It has ended, and nobody does anything of it any more."""
    changes: Mapping[str, Any] = {"state": open_parts, "changed_at": datetime.now(UTC)}
    still_open = update(JobTarget).where(JobTarget.job_id == job.id, JobTarget.state.in_(OPEN))
    session.execute(still_open.values(**changes, **({"why": why} if why else {})))
    job.state, job.why, job.ended_at = state, why, datetime.now(UTC)
    job.version += 1
    note_jobs(session)


def forget_old_jobs(session: Session, most: int = MOST_ENDED) -> None:
    """Those that ended long ago, and the oldest of more than so many."""
    ended = Job.ended_at.is_not(None)
    newest = select(Job.id).where(ended).order_by(Job.id.desc()).limit(most)
    session.execute(delete(Job).where(Job.ended_at < datetime.now(UTC) - FORGOTTEN_AFTER))
    session.execute(delete(Job).where(ended, Job.id.not_in(newest)))


def part_of(target: JobTarget) -> Part:
    """A row, as the state machine knows it."""
    return Part(state=PartState(target.state), attempt=target.attempt, failures=target.failures)


def write_part(target: JobTarget, part: Part) -> None:
    """And back."""
    target.state, target.attempt, target.failures = part.state, part.attempt, part.failures
    target.changed_at = datetime.now(UTC)


def write_report(session: Session, target: JobTarget, report: Report, retries: int) -> bool:
    """Write down a host's word; whether its part is not told any more. The job's row is held."""
    before = part_of(target)
    if before.state is not PartState.TOLD or before.attempt != report.attempt:
        return False
    after = reported(before, report, retries)
    target.done_bytes, target.total_bytes = report.done_bytes, report.total_bytes
    if report.progress is Progress.FAILED:
        target.why = report.why
        note_event(session, target.job_id, "host failed", f"{target.hostname}: {report.why}")
    elif report.progress is Progress.DONE:
        target.why, target.result = "", report.result
    write_part(target, after)
    return after.state is not PartState.TOLD
