"""Schedules: jobs that are made again and again. Who may make the job may make, change and remove them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import AfterValidator, Field, StrictBool, model_validator

from cafs.errors import NotFoundError, UsageError
from cafs.manager.clusters.catalogue import get_cluster
from cafs.manager.http.caller import needs
from cafs.manager.http.conditional import IfMatch, check_match, etag_of
from cafs.manager.http.job_sent import NewJob
from cafs.manager.http.models import After, Id, Label, Limit, Page, Sent, Told
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.http.routes_jobs import check_may_make
from cafs.manager.jobs import schedules
from cafs.manager.jobs.cron import next_time
from cafs.manager.tables import Schedule
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Role, Scope, Where

routes = APIRouter(prefix="/schedules", tags=["jobs"])
Seer = Annotated[Caller, needs(Role.VIEWER, Scope.JOBS_READ, Where.SOMEWHERE)]
Maker = Annotated[Caller, needs(Role.OPERATOR, Scope.JOBS_WRITE, Where.SOMEWHERE)]


def _cron(text: str) -> str:
    return _due(text, "UTC", text)


def _timezone(text: str) -> str:
    return _due("0 0 * * *", text, text)


def _due(cron: str, timezone: str, text: str) -> str:
    try:
        next_time(cron, timezone, datetime.now(UTC))
    except UsageError as e:
        raise ValueError(str(e)) from None
    return text


Cron = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        pattern=r"^[\x20-\x7e]*$",
        description="minute hour day month weekday, as Debian's cron has them.",
        examples=["30 4 * * MON"],
    ),
    AfterValidator(_cron),
]
TimeZone = Annotated[
    str,
    Field(max_length=64, pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", examples=["Europe/Berlin"]),
    AfterValidator(_timezone),
]


class NewSchedule(Sent):
    """A schedule that is to be made."""

    name: Label
    cron: Cron
    timezone: TimeZone = "UTC"
    enabled: StrictBool = True
    job: NewJob


class ScheduleChanges(Sent):
    """What is left out stays."""

    name: Label = ""
    cron: Cron = ""
    timezone: TimeZone = ""
    enabled: StrictBool = True
    job: NewJob | None = None

    @model_validator(mode="after")
    def _has_a_job(self) -> ScheduleChanges:
        if "job" in self.model_fields_set and self.job is None:
            raise ValueError("a schedule has a job")
        return self


class ScheduleTold(Told):
    """A schedule."""

    id: int
    name: str
    cluster_id: int
    cron: str
    timezone: str
    job: dict[str, Any]
    enabled: bool
    next_at: datetime = Field(description="While it is enabled.")
    last_job_id: int | None
    who: str
    created_at: datetime


@routes.get("", responses=declared(401, 403, 422, 503))
def list_some(caller: Seer, parts: Here, after: After = 0, limit: Limit = 100) -> Page[ScheduleTold]:
    """Schedules of the clusters that one may look at."""
    with parts.database.reading() as session:
        found = schedules.list_schedules(session, caller.clusters(), after, limit + 1)
    items = [ScheduleTold.model_validate(schedule) for schedule in found[:limit]]
    return Page(items=items, next=items[-1].id if len(found) > limit else None)


@routes.post("", status_code=201, responses=declared(401, 403, 404, 409, 422, 503))
def create(sent: NewSchedule, caller: Maker, parts: Here, response: Response) -> ScheduleTold:
    """Have a job made whenever it is due. One that is due while its last job still runs is left out."""
    check_may_make(caller, sent.job.cluster_id)
    fields = sent.model_dump(mode="json")
    with parts.database.writing() as session:
        get_cluster(session, sent.job.cluster_id)
        made = schedules.add_schedule(session, who=caller.name, cluster_id=sent.job.cluster_id, **fields)
        write_down(session, caller, "schedule.create", _named(made), after=_fields(made))
    response.headers["ETag"] = etag_of(made.version)
    return ScheduleTold.model_validate(made)


@routes.get("/{schedule_id}", responses=declared(401, 403, 404, 422, 503))
def show(schedule_id: Id, caller: Seer, parts: Here, response: Response) -> ScheduleTold:
    """One schedule."""
    with parts.database.reading() as session:
        found = schedules.get_schedule(session, schedule_id)
    _check_seen(caller, found)
    response.headers["ETag"] = etag_of(found.version)
    return ScheduleTold.model_validate(found)


@routes.patch("/{schedule_id}", responses=declared(401, 403, 404, 409, 422, 428, 503))
def change(  # noqa: PLR0917 - FastAPI calls it, by keyword
    schedule_id: Id,
    sent: ScheduleChanges,
    caller: Maker,
    parts: Here,
    response: Response,
    if_match: IfMatch = None,
) -> ScheduleTold:
    """Change a schedule, or switch it on or off; what is left out stays."""
    changes = sent.model_dump(mode="json", include=sent.model_fields_set)
    with parts.database.writing() as session:
        found = schedules.get_schedule(session, schedule_id, to_change=True)
        _check_seen(caller, found)
        check_may_make(caller, found.cluster_id)
        before = _fields(found)
        check_match(if_match, found.version, before, changes)
        if sent.job is not None:
            check_may_make(caller, sent.job.cluster_id)
            get_cluster(session, sent.job.cluster_id)
            changes["cluster_id"] = sent.job.cluster_id
        schedules.change_schedule(found, changes)
        write_down(session, caller, "schedule.change", _named(found), before=before, after=_fields(found))
    response.headers["ETag"] = etag_of(found.version)
    return ScheduleTold.model_validate(found)


@routes.delete("/{schedule_id}", status_code=204, responses=declared(401, 403, 404, 409, 422, 428, 503))
def delete(schedule_id: Id, caller: Maker, parts: Here, if_match: IfMatch = None) -> None:
    """Remove a schedule; jobs that it made stay."""
    with parts.database.writing() as session:
        found = schedules.get_schedule(session, schedule_id, to_change=True)
        _check_seen(caller, found)
        check_may_make(caller, found.cluster_id)
        check_match(if_match, found.version, _fields(found), {})
        session.delete(found)
        write_down(session, caller, "schedule.delete", _named(found), before=_fields(found))


def _check_seen(caller: Caller, schedule: Schedule) -> None:
    """Who may not look at its cluster does not learn that it is there."""
    if caller.role_in(schedule.cluster_id) is None:
        raise NotFoundError(f"there is no schedule {schedule.id}")


def _fields(schedule: Schedule) -> dict[str, Any]:
    return {name: getattr(schedule, name) for name in ("name", "cron", "timezone", "enabled", "job")}


def _named(schedule: Schedule) -> str:
    return f"schedule {schedule.id} {schedule.name}"
