"""Jobs: who may look at a cluster sees its jobs, its operators make, cancel and repeat them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from cafs.errors import NotFoundError
from cafs.manager.clusters.catalogue import get_cluster
from cafs.manager.http.caller import needs
from cafs.manager.http.conditional import IfMatch, check_match, etag_of
from cafs.manager.http.job_sent import NewJob, ScopeSent
from cafs.manager.http.job_told import EventTold, JobTold, Parts, PartTold, told
from cafs.manager.http.models import MOST_ID, After, Id, Limit, Page
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.jobs import ledger
from cafs.manager.jobs.states import JobState, PartState
from cafs.manager.jobs.sums import Sums, add_up
from cafs.manager.refusals import DeniedError, InvalidError
from cafs.manager.tables import Host, Job
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Need, Role, Scope, Where, refusal

routes = APIRouter(prefix="/jobs", tags=["jobs"])
Seer = Annotated[Caller, needs(Role.VIEWER, Scope.JOBS_READ, Where.SOMEWHERE)]
Maker = Annotated[Caller, needs(Role.OPERATOR, Scope.JOBS_WRITE, Where.SOMEWHERE)]


@routes.get("", responses=declared(401, 403, 422, 503))
def list_some(  # noqa: PLR0917 - FastAPI calls it, by keyword
    caller: Seer,
    parts: Here,
    cluster_id: Annotated[int | None, Query(ge=1, le=MOST_ID)] = None,
    state: JobState | None = None,
    before: Annotated[int | None, Query(ge=1, le=MOST_ID, description="Older than this number.")] = None,
    limit: Limit = 100,
) -> Page[JobTold]:
    """Jobs of the clusters that one may look at, the newest first."""
    with parts.database.reading() as session:
        found = ledger.list_jobs(
            session,
            clusters=caller.clusters(),
            cluster_id=cluster_id,
            state=state,
            before=before,
            limit=limit + 1,
        )
        sums = parts.job_sums.of(session, found[:limit])
    items = [told(job, sums[job.id]) for job in found[:limit]]
    return Page(items=items, next=items[-1].id if len(found) > limit else None)


@routes.post("", status_code=201, responses=declared(401, 403, 404, 409, 422, 503))
def create(sent: NewJob, caller: Maker, parts: Here, response: Response) -> JobTold:
    """Have hosts of a cluster do something. They begin within a second or two."""
    check_may_make(caller, sent.cluster_id)
    fields = sent.model_dump(mode="json")
    with parts.database.writing() as session:
        get_cluster(session, sent.cluster_id)
        _check_names(session, sent.cluster_id, sent.scope)
        job = ledger.add_job(session, who=caller.name, **fields)
        write_down(session, caller, "job.create", _named(job), after=fields)
    parts.jobs_changed()
    response.headers["ETag"] = etag_of(job.version)
    return told(job, Sums())


@routes.get("/{job_id}", responses=declared(401, 403, 404, 422, 503))
def show(job_id: Id, caller: Seer, parts: Here, response: Response) -> JobTold:
    """One job, with how far its hosts are in all."""
    with parts.database.reading() as session:
        job = _seen(session, job_id, caller)
        sums = parts.job_sums.of(session, [job])
    response.headers["ETag"] = etag_of(job.version)
    return told(job, sums[job_id])


@routes.get("/{job_id}/hosts", responses=declared(401, 403, 404, 422, 503))
def list_hosts(  # noqa: PLR0917 - FastAPI calls it, by keyword
    job_id: Id,
    caller: Seer,
    parts: Here,
    state: PartState | None = None,
    after: Annotated[str, Query(pattern="^([0-9a-f]{32})?$", description="Begin behind this id.")] = "",
    limit: Limit = 100,
    results: Annotated[
        bool, Query(description="With what they answered, which may be 48 KiB of each; else it is null.")
    ] = True,
) -> Parts:
    """How far each host is, in the order of their ids."""
    with parts.database.reading() as session:
        _seen(session, job_id, caller)
        found = ledger.list_parts(session, job_id, state=state, after=after, limit=limit + 1, results=results)
    items = [PartTold.model_validate(part) for part in found[:limit]]
    return Parts(items=items, next=items[-1].host_id if len(found) > limit else None)


@routes.get("/{job_id}/events", responses=declared(401, 403, 404, 422, 503))
def list_events(
    job_id: Id, caller: Seer, parts: Here, after: After = 0, limit: Limit = 100
) -> Page[EventTold]:
    """What happened, in its order."""
    with parts.database.reading() as session:
        _seen(session, job_id, caller)
        found = ledger.list_events(session, job_id, after, limit + 1)
    items = [EventTold.model_validate(event) for event in found[:limit]]
    return Page(items=items, next=items[-1].id if len(found) > limit else None)


@routes.post("/{job_id}/cancel", responses=declared(401, 403, 404, 409, 422, 428, 503))
def cancel(job_id: Id, caller: Maker, parts: Here, response: Response, if_match: IfMatch = None) -> JobTold:
    """Have all hosts stop. What they have by then stays there."""
    with parts.database.writing() as session:
        job = _mine(session, job_id, caller, if_match)
        before = {"state": job.state}
        ledger.cancel_job(session, job, caller.name)
        write_down(session, caller, "job.cancel", _named(job), before=before, after={"state": job.state})
        sums = add_up(session, [job_id])
    parts.jobs_changed()
    response.headers["ETag"] = etag_of(job.version)
    return told(job, sums[job_id])


@routes.post("/{job_id}/retry", responses=declared(401, 403, 404, 409, 422, 428, 503))
def retry(job_id: Id, caller: Maker, parts: Here, response: Response, if_match: IfMatch = None) -> JobTold:
    """Do again what failed or was cancelled; what was done stays done."""
    with parts.database.writing() as session:
        job = _mine(session, job_id, caller, if_match)
        before = {"state": job.state}
        ledger.retry_job(session, job, caller.name)
        write_down(session, caller, "job.retry", _named(job), before=before, after={"state": job.state})
        session.flush()
        sums = add_up(session, [job_id])
    parts.jobs_changed()
    response.headers["ETag"] = etag_of(job.version)
    return told(job, sums[job_id])


def check_may_make(caller: Caller, cluster_id: int) -> None:
    """Whether somebody is an operator there.

    Raises:
        DeniedError: no.
    """
    if why := refusal(caller, Need(Role.OPERATOR, Scope.JOBS_WRITE, Where.CLUSTER), cluster_id):
        raise DeniedError(why)


def _check_names(session: Session, cluster_id: int, scope: ScopeSent) -> None:
    """Raises InvalidError when a named host is none of the cluster's."""
    if not scope.names:
        return
    meant = or_(Host.hostname.in_(scope.names), Host.id.in_(scope.names))
    rows = session.execute(select(Host.id, Host.hostname).where(Host.cluster_id == cluster_id, meant))
    unknown = set(scope.names) - {name for row in rows for name in row}
    if unknown:
        raise InvalidError({"body.scope.names": f"the cluster has no host {min(unknown)}"})


def _seen(session: Session, job_id: int, caller: Caller, *, to_change: bool = False) -> Job:
    """Who may not look at its cluster does not learn that it is there."""
    job = ledger.get_job(session, job_id, to_change=to_change)
    if caller.role_in(job.cluster_id) is None:
        raise NotFoundError(f"there is no job {job_id}")
    return job


def _mine(session: Session, job_id: int, caller: Caller, if_match: str | None) -> Job:
    job = _seen(session, job_id, caller, to_change=True)
    check_may_make(caller, job.cluster_id)
    check_match(if_match, job.version, {"state": job.state}, {})
    return job


def _named(job: Job) -> str:
    return f"job {job.id} {job.kind}"
