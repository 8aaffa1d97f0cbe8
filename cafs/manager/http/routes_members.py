"""Roles in one cluster, given and taken by its administrators."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from cafs.errors import NotFoundError
from cafs.manager.clusters.catalogue import get_cluster, list_members, set_member
from cafs.manager.http.caller import needs
from cafs.manager.http.cluster_models import named
from cafs.manager.http.models import Id, Name, Sent, Told
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.users.accounts import find_account
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Role, Scope, Where

routes = APIRouter(prefix="/clusters", tags=["clusters"])
MemberReader = Annotated[Caller, needs(Role.ADMIN, Scope.USERS_READ, Where.CLUSTER)]
MemberWriter = Annotated[Caller, needs(Role.ADMIN, Scope.USERS_WRITE, Where.CLUSTER)]


class MemberTold(Told):
    """Somebody with a role in this cluster."""

    name: str
    role: Role


class MemberSent(Sent):
    """The role that somebody is to have in this cluster."""

    role: Role


@routes.get("/{cluster_id}/members", responses=declared(401, 403, 404, 422, 503))
def list_all_members(cluster_id: Id, _caller: MemberReader, parts: Here) -> list[MemberTold]:
    """Who has a role in this cluster; those with one everywhere are not repeated."""
    with parts.database.reading() as session:
        get_cluster(session, cluster_id)
        return [MemberTold(name=name, role=Role(role)) for name, role in list_members(session, cluster_id)]


@routes.put("/{cluster_id}/members/{name}", status_code=204, responses=declared(401, 403, 404, 409, 422, 503))
def give_role(
    cluster_id: Id, name: Annotated[Name, Path()], sent: MemberSent, caller: MemberWriter, parts: Here
) -> None:
    """Give somebody a role in this cluster."""
    _set_role(parts, caller, cluster_id, name, sent.role)


@routes.delete(
    "/{cluster_id}/members/{name}", status_code=204, responses=declared(401, 403, 404, 409, 422, 503)
)
def take_role(cluster_id: Id, name: Annotated[Name, Path()], caller: MemberWriter, parts: Here) -> None:
    """Take somebody's role in this cluster."""
    _set_role(parts, caller, cluster_id, name, None)


def _set_role(parts: Here, caller: Caller, cluster_id: int, name: str, role: Role | None) -> None:
    with parts.database.writing() as session:
        cluster = get_cluster(session, cluster_id)
        account = find_account(session, name)
        if account is None:
            raise NotFoundError(f"there is no user {name!r}")
        before = set_member(session, cluster_id, account.id, role)
        if role is None and before is None:
            raise NotFoundError(f"{name!r} has no role in this cluster")
        was, now = ({"role": value} if value is not None else None for value in (before, role))
        write_down(
            session, caller, "cluster.role", f"{named(cluster)}, {account.name}", before=was, after=now
        )
