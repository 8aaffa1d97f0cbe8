"""Hosts: schedulers, seeds and peers that are here, or were."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from cafs.errors import NotFoundError
from cafs.manager.clusters.hosts import forget_host, get_host, list_hosts
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
HostId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class HostTold(Told):
    """A host."""

    id: str
    kind: Literal["scheduler", "seed", "peer", "proxy"]
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
    next: str | None = Field(description="`after` of the next page; null: these were the last.")


@routes.get("", responses=declared(401, 403, 422, 503))
def list_some(  # noqa: PLR0917 - FastAPI calls it, by keyword
    caller: Seer,
    parts: Here,
    cluster_id: Annotated[int | None, Query(ge=1, le=MOST_ID)] = None,
    kind: Literal["scheduler", "seed", "peer", "proxy"] | None = None,
    active: bool | None = None,
    after: Annotated[str, Query(pattern="^([0-9a-f]{32})?$", description="Begin behind this id.")] = "",
    limit: Limit = 100,
) -> Hosts:
    """Hosts of the clusters that one may look at, in the order of their ids."""
    with parts.database.reading() as session:
        found = list_hosts(
            session,
            clusters=caller.clusters(),
            cluster_id=cluster_id,
            kind=kind,
            active=active,
            after=after,
            limit=limit + 1,
        )
    items = [HostTold.model_validate(host) for host in found[:limit]]
    return Hosts(items=items, next=items[-1].id if len(found) > limit else None)


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
