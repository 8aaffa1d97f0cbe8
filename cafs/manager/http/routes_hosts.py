"""Hosts: schedulers, seeds and peers that are here, or were."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import Field

from cafs.errors import NotFoundError
from cafs.manager.clusters.host_lists import Order, Wanted, count_alike, list_hosts
from cafs.manager.clusters.hosts import forget_host, get_host
from cafs.manager.http.caller import needs
from cafs.manager.http.models import MOST_ID, Limit, Told
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.tables import Host
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Need, Role, Scope, Where, refusal

routes = APIRouter(prefix="/hosts", tags=["hosts"])
Seer = Annotated[Caller, needs(Role.VIEWER, Scope.CLUSTERS_READ, Where.SOMEWHERE)]
Keeper = Annotated[Caller, needs(Role.OPERATOR, Scope.CLUSTERS_WRITE, Where.SOMEWHERE)]
Kind = Literal["scheduler", "seed", "peer", "proxy"]
HostId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class HostTold(Told):
    """A host."""

    id: str
    kind: Kind
    hostname: str
    address: str
    idc: str
    location: str
    cafs_version: str
    cluster_id: int | None
    running: int | None = Field(
        description="The version of its cluster's configuration that it runs; null: it did not say."
    )
    refused: str = Field(description="Why it does not run a newer one; empty: it refuses none.")
    active: bool
    since: datetime = Field(description="For so long it is active, or is not.")
    first_seen_at: datetime


class Hosts(Told):
    """Some of many."""

    items: list[HostTold]
    next: str | None = Field(
        description="`after` of the next page; null: these were the last, or they are sorted otherwise."
    )


class CountTold(Told):
    """So many hosts that are alike in all of this."""

    cluster_id: int | None
    kind: Kind
    active: bool
    cafs_version: str
    running: int | None
    refuses: bool
    hosts: int


async def _wanted(  # noqa: PLR0917 - FastAPI calls it, by keyword
    caller: Seer,
    cluster_id: Annotated[int | None, Query(ge=1, le=MOST_ID)] = None,
    kind: Kind | None = None,
    active: bool | None = None,
    cafs_version: Annotated[str | None, Query(max_length=255)] = None,
    current: Annotated[
        bool | None, Query(description="Whether it runs the newest version of its cluster's configuration.")
    ] = None,
    refuses: Annotated[bool | None, Query(description="Whether it refuses a version.")] = None,
    text: Annotated[
        str, Query(max_length=255, pattern=r"^[^\x00]*$", description="Within its name or its address.")
    ] = "",
) -> Wanted:
    return Wanted(
        clusters=caller.clusters(),
        cluster_id=cluster_id,
        kind=kind,
        active=active,
        cafs_version=cafs_version,
        current=current,
        refuses=refuses,
        text=text,
    )


Filter = Annotated[Wanted, Depends(_wanted)]


@routes.get("", responses=declared(401, 403, 422, 503))
def list_some(  # noqa: PLR0917 - FastAPI calls it, by keyword
    wanted: Filter,
    parts: Here,
    after: Annotated[str, Query(pattern="^([0-9a-f]{32})?$", description="Begin behind this id.")] = "",
    order: Annotated[Order, Query(description="What they are sorted by; then by id.")] = Order.ID,
    descending: Annotated[bool, Query(description="The largest first.")] = False,
    skip: Annotated[int, Query(ge=0, le=MOST_ID, description="Leave out so many of the first.")] = 0,
    limit: Limit = 100,
) -> Hosts:
    """Hosts of the clusters that one may look at."""
    with parts.database.reading() as session:
        found = list_hosts(
            session, wanted, after=after, order=order, descending=descending, skip=skip, limit=limit + 1
        )
    items = [HostTold.model_validate(host) for host in found[:limit]]
    in_order = order == Order.ID and not descending
    return Hosts(items=items, next=items[-1].id if in_order and len(found) > limit else None)


@routes.get("/counts", responses=declared(401, 403, 422, 503))
def count(wanted: Filter, parts: Here) -> list[CountTold]:
    """The same hosts, counted: how many are alike in cluster, kind, state, version and configuration."""
    with parts.database.reading() as session:
        return [CountTold.model_validate(alike) for alike in count_alike(session, wanted)]


@routes.get("/{host_id}", responses=declared(401, 403, 404, 422, 503))
def show(host_id: HostId, caller: Seer, parts: Here) -> HostTold:
    """One host."""
    with parts.database.reading() as session:
        host = get_host(session, host_id)
    _check(caller, host, Role.VIEWER, Scope.CLUSTERS_READ)
    return HostTold.model_validate(host)


@routes.delete("/{host_id}", status_code=204, responses=declared(401, 403, 404, 409, 422, 503))
def forget(host_id: HostId, caller: Keeper, parts: Here) -> None:
    """Forget a host that is not here. It may come again."""
    with parts.database.writing() as session:
        host = get_host(session, host_id)
        _check(caller, host, Role.OPERATOR, Scope.CLUSTERS_WRITE)
        forget_host(session, host)
        write_down(session, caller, "host.forget", f"host {host.id} {host.hostname}", before={})


def _check(caller: Caller, host: Host, role: Role, scope: Scope) -> None:
    """Who may not look at its cluster does not learn that it is there."""
    if refusal(caller, Need(role, scope, Where.CLUSTER), host.cluster_id):
        raise NotFoundError("there is no such host")
