"""Clusters in the database: listed, made, changed, removed; roles in them."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cafs.errors import ExistsError, NotFoundError, StateError
from cafs.manager.clusters.placing import Candidate, Scopes
from cafs.manager.tables import Account, Cluster, ClusterRole, Counter, Host, Schedule

MOST_CLUSTERS = 1000
"""Of both kinds: each host is compared with each of its kind, and all are in one listing."""


def list_clusters(session: Session, only: Collection[int] | None = None) -> list[Cluster]:
    """In the order of their numbers; ``only`` those, if it is given."""
    query = select(Cluster).order_by(Cluster.id)
    if only is not None:
        query = query.where(Cluster.id.in_(only))
    return list(session.scalars(query))


def get_cluster(session: Session, cluster_id: int, *, to_change: bool = False) -> Cluster:
    """One of them.

    Raises:
        NotFoundError: there is none of that number.
    """
    cluster = session.get(Cluster, cluster_id, with_for_update=to_change)
    if cluster is None:
        raise NotFoundError(f"there is no cluster {cluster_id}")
    return cluster


def add_cluster(session: Session, kind: str, name: str, fields: Mapping[str, Any]) -> Cluster:
    """A new one.

    Raises:
        ExistsError: the name is taken, or another one is the default.
        StateError: there are too many.
    """
    if (session.scalar(select(func.count()).select_from(Cluster)) or 0) >= MOST_CLUSTERS:
        raise StateError(f"there are {MOST_CLUSTERS} clusters, and no more can be: remove some")
    cluster = Cluster(
        kind=kind, name=name, version=1, configuration=0, created_at=datetime.now(UTC), **fields
    )
    session.add(cluster)
    _flush(session)
    note_change(session)
    return cluster


def change_cluster(session: Session, cluster: Cluster, changes: Mapping[str, Any]) -> None:
    """Set fields.

    Raises:
        ExistsError: as ``add_cluster``.
    """
    for name, value in changes.items():
        setattr(cluster, name, value)
    cluster.version += 1
    _flush(session)
    note_change(session)


def held_by(session: Session, cluster: Cluster) -> dict[str, Any]:
    """What somebody made for it and what goes with it, for the audit: roles by name, names of schedules."""
    schedules = select(Schedule.name).where(Schedule.cluster_id == cluster.id).order_by(Schedule.id)
    return {"members": dict(list_members(session, cluster.id)), "schedules": list(session.scalars(schedules))}


def remove_cluster(session: Session, cluster: Cluster) -> None:
    """With its configurations, jobs, schedules and roles. Its hosts find others."""
    session.delete(cluster)
    note_change(session)


def _flush(session: Session) -> None:
    try:
        session.flush()
    except IntegrityError:
        raise ExistsError("another cluster of this kind has the name, or is the default") from None


def note_change(session: Session, of: str = "changes") -> None:
    """Tell all replicas that clusters (or jobs) are not what they were, once this is committed."""
    session.execute(update(Counter).where(Counter.name == of).values(value=Counter.value + 1))


def count_changes(session: Session, of: str = "changes") -> int:
    """Grows with each change, of whichever replica."""
    return session.scalar(select(Counter.value).where(Counter.name == of)) or 0


def candidates(session: Session) -> dict[str, list[Candidate]]:
    """All clusters, by kind, as the score needs them."""
    found: dict[str, list[Candidate]] = {}
    for cluster in session.scalars(select(Cluster).order_by(Cluster.id)):
        candidate = Candidate(cluster.id, cluster.name, scopes_of(cluster))
        found.setdefault(cluster.kind, []).append(candidate)
    return found


def hold_clusters(session: Session) -> frozenset[int]:
    """Those that there are, and until the transaction's end none of them is removed."""
    return frozenset(session.scalars(select(Cluster.id).with_for_update(read=True, key_share=True)))


def scopes_of(cluster: Cluster) -> Scopes:
    """Parsed; they were checked when they were written."""
    told = cluster.scopes
    return Scopes(
        cidrs=tuple(map(ipaddress.ip_network, told["cidrs"])),
        hostnames=tuple(told["hostnames"]),
        idcs=frozenset(told["idcs"]),
        locations=tuple(tuple(location.split("|")) for location in told["locations"]),
        default=cluster.is_default,
    )


def count_hosts(session: Session) -> dict[tuple[int | None, bool], int]:
    """By cluster, and whether they are active."""
    query = select(Host.cluster_id, Host.active, func.count()).group_by(Host.cluster_id, Host.active)
    return {(cluster_id, active): count for cluster_id, active, count in session.execute(query)}


def list_members(session: Session, cluster_id: int) -> list[tuple[str, str]]:
    """Names and roles of those who have one in this cluster."""
    query = select(Account.name, ClusterRole.role).join(Account, ClusterRole.account_id == Account.id)
    rows = session.execute(query.where(ClusterRole.cluster_id == cluster_id).order_by(Account.name))
    return [(name, role) for name, role in rows]


def set_member(session: Session, cluster_id: int, account_id: int, role: str | None) -> str | None:
    """Give a role in this cluster, or take it (None); what it was."""
    held = session.get(ClusterRole, (cluster_id, account_id), with_for_update=True)
    before = held.role if held is not None else None
    if role is None:
        session.execute(
            delete(ClusterRole).where(
                ClusterRole.cluster_id == cluster_id, ClusterRole.account_id == account_id
            )
        )
    elif held is None:
        session.add(ClusterRole(cluster_id=cluster_id, account_id=account_id, role=role))
        _flush(session)
    else:
        held.role = role
    return before
