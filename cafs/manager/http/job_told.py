"""Jobs, as they are told: how far they are in all, and each host."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from cafs.manager.http.models import Told
from cafs.manager.jobs.states import JobState, PartState
from cafs.manager.jobs.sums import Sums
from cafs.manager.tables import Job


class Hosts(Told):
    """How many hosts are how far."""

    waiting: int = 0
    told: int = Field(default=0, description="They are at it, or will be when they are here again.")
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


class JobTold(Told):
    """A job."""

    id: int
    kind: str
    cluster_id: int
    spec: dict[str, Any]
    scope: dict[str, Any]
    concurrency: int
    retries: int
    timeout_s: int
    state: JobState
    why: str = Field(description="Why it failed; empty: its hosts say more.")
    who: str
    created_at: datetime
    ends_by: datetime | None = Field(
        description="What is not done by then has failed; null: it has not begun."
    )
    ended_at: datetime | None
    hosts: Hosts
    done_bytes: int
    total_bytes: int = Field(description="Of the hosts that know by now how much it is.")
    most_bytes: int = Field(description="The most that one of these hosts has to have.")


class PartTold(Told):
    """A host's part in a job."""

    host_id: str
    hostname: str
    state: PartState
    attempt: int
    done_bytes: int
    total_bytes: int = Field(description="0: not known yet.")
    why: str = Field(description="Why it failed last.")
    result: dict[str, Any] | None = Field(description="What it answered: docs/manager.md.")
    changed_at: datetime


class Parts(Told):
    """Some of many."""

    items: list[PartTold]
    next: str | None = Field(description="`after` of the next page; null: these were the last.")


class EventTold(Told):
    """What happened."""

    id: int
    at: datetime
    what: str
    detail: str


def told(job: Job, sums: Sums) -> JobTold:
    """As others may see it."""
    return JobTold(
        id=job.id,
        kind=job.kind,
        cluster_id=job.cluster_id,
        spec=job.spec,
        scope=job.scope,
        concurrency=job.concurrency,
        retries=job.retries,
        timeout_s=job.timeout_s,
        state=JobState(job.state),
        why=job.why,
        who=job.who,
        created_at=job.created_at,
        ends_by=job.ends_by,
        ended_at=job.ended_at,
        hosts=Hosts(**sums.counts),
        done_bytes=sums.done_bytes,
        total_bytes=sums.total_bytes,
        most_bytes=sums.most_bytes,
    )
