"""What a cluster's schedulers know of its tasks, asked when somebody wants to know; nothing of it is kept.

The questions wait in the event loop; in threads is what the database and long answers take.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool
from pydantic import Field
from sqlalchemy.orm import Session

from cafs.errors import NotFoundError
from cafs.manager.clusters.catalogue import get_cluster
from cafs.manager.clusters.host_lists import Wanted, list_hosts
from cafs.manager.http.caller import needs
from cafs.manager.http.models import Id, Told
from cafs.manager.http.parts import Here, Parts
from cafs.manager.http.problems import declared
from cafs.manager.schedulers import MOST_ASKED, Said
from cafs.manager.users.roles import Caller, Role, Scope, Where
from cafs.proto import p2p_pb2

routes = APIRouter(prefix="/clusters/{cluster_id}/tasks", tags=["tasks"])
Reader = Annotated[Caller, needs(Role.VIEWER, Scope.CLUSTERS_READ, Where.CLUSTER)]
TaskId = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
_TYPES: dict[int, Literal["peer", "seed"]] = {p2p_pb2.SEED: "seed"}


class TaskTold(Told):
    """A content that is distributed."""

    id: str
    url: str = Field(description="Without credentials; of private ones scheme, host and path.")
    digest: str
    application: str
    tag: str
    priority: int
    state: str
    content_bytes: int | None = Field(description="null: not known yet.")
    piece_bytes: int
    pieces: int | None
    hosts: int = Field(description="That hold pieces of it, or download it.")
    complete: int = Field(description="Of these, hosts that have all of it.")
    downloading: int
    source_pieces: int = Field(description="That came from the source; `pieces` of them are one copy.")
    swarm_pieces: int = Field(description="That came from other hosts.")
    idle_s: float


class Tasks(Told):
    """Some of many."""

    items: list[TaskTold]
    next: str | None = Field(description="`after` of the next page; null: these were the last.")
    silent: dict[str, str] = Field(description="Schedulers that did not answer, and how.")


class SwarmHostTold(Told):
    """A host in a task's swarm."""

    id: str
    hostname: str
    kind: Literal["peer", "seed"]
    pieces: int = Field(description="That it holds.")
    complete: bool
    downloading: bool
    at_source: bool


class FeedTold(Told):
    """What one host gave another one."""

    parent: str | None = Field(description="null: the source.")
    child: str
    pieces: int
    bytes_per_s: float = Field(description="Over about the last five seconds.")


class Swarm(Told):
    """Who fed whom: the hosts and pairs that were busy last."""

    task: TaskTold
    hosts: list[SwarmHostTold]
    feeds: list[FeedTold]


class CandidateTold(Told):
    """A host that was looked at for a decision."""

    host_id: str
    hostname: str
    score: float
    parts: dict[str, float] = Field(description="Of the score, each 0 to 1: docs/scheduler.md.")
    filtered: str = Field(description="Why it could not be chosen; empty: it could.")
    chosen: bool


class DecisionTold(Told):
    """Of a scheduler."""

    ago_s: float
    peer_id: str = Field(description="The download; empty: it is about the task.")
    what: str
    why: str
    candidates: list[CandidateTold]


class Explanation(Told):
    """Why it goes as it goes."""

    task: TaskTold
    decisions: list[DecisionTold] = Field(description="Oldest first; a bounded number is remembered.")


@routes.get("", responses=declared(401, 403, 404, 422, 503))
async def list_tasks(
    cluster_id: Id,
    _caller: Reader,
    parts: Here,
    after: Annotated[str, Query(pattern="^([0-9a-f]{64})?$", description="Begin behind this id.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
) -> Tasks:
    """Tasks that the cluster's schedulers know, in the order of their ids."""
    request = p2p_pb2.ListTasksRequest(limit=limit, after=after)
    told = await parts.schedulers.ask_all(await _schedulers(parts, cluster_id), "ListTasks", request)
    return await run_in_threadpool(_page, told, limit)


def _page(told: list[Said], limit: int) -> Tasks:
    found: dict[str, TaskTold] = {}
    for task in (_task(info) for said in told if said.answer is not None for info in said.answer.tasks):
        if task.id not in found or found[task.id].hosts < task.hosts:
            found[task.id] = task
    page = [found[name] for name in sorted(found)[:limit]]
    more = len(found) > limit or any(said.answer is not None and said.answer.next for said in told)
    silent = {said.address: said.failure for said in told if said.failure}
    return Tasks(items=page, next=page[-1].id if more and page else None, silent=silent)


@routes.get("/{task_id}/swarm", responses=declared(401, 403, 404, 422, 503))
async def show_swarm(
    cluster_id: Id,
    task_id: TaskId,
    _caller: Reader,
    parts: Here,
    limit: Annotated[int, Query(ge=1, le=2000, description="Hosts at most, the busiest.")] = 200,
) -> Swarm:
    """A task's hosts, and who fed whom at what rate."""
    request = p2p_pb2.SwarmRequest(task_id=task_id, limit=limit)
    told = await parts.schedulers.ask_who_knows(await _schedulers(parts, cluster_id), "Swarm", request)
    return await run_in_threadpool(_swarm, told)


def _swarm(told: p2p_pb2.SwarmResponse) -> Swarm:
    hosts = [
        SwarmHostTold(
            id=host.host_id,
            hostname=host.hostname,
            kind=_TYPES.get(host.type, "peer"),
            pieces=host.pieces,
            complete=host.complete,
            downloading=host.downloading,
            at_source=host.at_source,
        )
        for host in told.hosts
    ]
    feeds = [
        FeedTold(
            parent=feed.parent_host_id or None,
            child=feed.child_host_id,
            pieces=feed.pieces,
            bytes_per_s=feed.bytes_per_s,
        )
        for feed in told.feeds
    ]
    return Swarm(task=_task(told.task), hosts=hosts, feeds=feeds)


@routes.get("/{task_id}/explanation", responses=declared(401, 403, 404, 422, 503))
async def explain(
    cluster_id: Id,
    task_id: TaskId,
    _caller: Reader,
    parts: Here,
    peer_id: Annotated[str, Query(pattern="^([0-9a-f]{32})?$", description="Of one download only.")] = "",
) -> Explanation:
    """Why the scheduler chose as it did: candidates, scores, and who could not be chosen."""
    request = p2p_pb2.ExplainRequest(task_id=task_id, peer_id=peer_id)
    told = await parts.schedulers.ask_who_knows(await _schedulers(parts, cluster_id), "Explain", request)
    return await run_in_threadpool(_explanation, told)


def _explanation(told: p2p_pb2.ExplainResponse) -> Explanation:
    return Explanation(task=_task(told.task), decisions=[_decision(one) for one in told.decisions])


async def _schedulers(parts: Parts, cluster_id: int) -> list[str]:
    def read() -> list[str]:
        with parts.database.reading() as session:
            return _addresses(session, cluster_id)

    found = await run_in_threadpool(read)
    if not found:
        raise NotFoundError("no scheduler of this cluster is here")
    return found


def _addresses(session: Session, cluster_id: int) -> list[str]:
    get_cluster(session, cluster_id)
    wanted = Wanted(clusters=None, cluster_id=cluster_id, kind="scheduler", active=True)
    return [host.address for host in list_hosts(session, wanted, limit=MOST_ASKED)]


def _task(info: p2p_pb2.TaskInfo) -> TaskTold:
    return TaskTold(
        id=info.spec.task_id,
        url=info.spec.url,
        digest=info.spec.digest,
        application=info.spec.application,
        tag=info.spec.tag,
        priority=info.spec.priority,
        state=info.state,
        content_bytes=None if info.content_bytes < 0 else info.content_bytes,
        piece_bytes=info.piece_bytes,
        pieces=info.pieces or None,
        hosts=info.members,
        complete=info.complete,
        downloading=info.downloading,
        source_pieces=info.source_pieces,
        swarm_pieces=info.swarm_pieces,
        idle_s=info.idle_s,
    )


def _decision(told: p2p_pb2.Explanation) -> DecisionTold:
    candidates = [
        CandidateTold(
            host_id=candidate.host_id,
            hostname=candidate.hostname,
            score=candidate.score,
            parts={part.name: part.value for part in candidate.parts},
            filtered=candidate.filtered,
            chosen=candidate.chosen,
        )
        for candidate in told.candidates
    ]
    return DecisionTold(
        ago_s=told.ago_s, peer_id=told.peer_id, what=told.what, why=told.why, candidates=candidates
    )
