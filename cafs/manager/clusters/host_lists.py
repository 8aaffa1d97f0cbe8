"""Hosts as people look for them: filtered, sorted, in pages, counted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, func, literal_column, or_, select
from sqlalchemy.orm import Session

from cafs.manager.tables import Cluster, Host


class Order(StrEnum):
    """What a list may be sorted by; of equal ones the lower id comes first."""

    ID = "id"
    HOSTNAME = "hostname"
    ADDRESS = "address"
    KIND = "kind"
    CLUSTER_ID = "cluster_id"
    CAFS_VERSION = "cafs_version"
    RUNNING = "running"
    ACTIVE = "active"
    SINCE = "since"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which hosts; None: whatever it is."""

    clusters: Collection[int] | None
    """Only in these; None: in any, and in none."""
    cluster_id: int | None = None
    kind: str | None = None
    active: bool | None = None
    cafs_version: str | None = None
    current: bool | None = None
    """Whether it runs the newest version of its cluster's configuration."""
    refuses: bool | None = None
    """Whether it refuses a version."""
    text: str = ""
    """Within its name or its address; case does not matter."""


@dataclass(frozen=True, slots=True)
class Count:
    """So many hosts that are alike in all of this."""

    cluster_id: int | None
    kind: str
    active: bool
    cafs_version: str
    running: int | None
    refuses: bool
    hosts: int


def list_hosts(
    session: Session,
    wanted: Wanted,
    *,
    after: str = "",
    order: Order = Order.ID,
    descending: bool = False,
    skip: int = 0,
    limit: int = 100,
) -> list[Host]:
    """Some of those that are wanted.

    Args:
        session: Where to look.
        wanted: Which.
        after: Only ids behind this one.
        order: What they are sorted by.
        descending: The largest first.
        skip: So many of the first are left out.
        limit: How many at most.
    """
    column: Any = getattr(Host, order.value)
    query = select(Host).where(Host.id > after, *_conditions(wanted))
    query = query.order_by(column.desc() if descending else column, Host.id)
    return list(session.scalars(query.offset(skip).limit(limit)))


def count_alike(session: Session, wanted: Wanted) -> list[Count]:
    """How many of those that are wanted are alike in what ``Count`` has."""
    # Written out: a parameter would be another one where it is grouped by.
    refuses = Host.refused != literal_column("''")
    alike = (Host.cluster_id, Host.kind, Host.active, Host.cafs_version, Host.running, refuses)
    rows = session.execute(select(*alike, func.count()).where(*_conditions(wanted)).group_by(*alike))
    return [
        Count(cluster_id, kind, active, version, running, bool(refusing), hosts)
        for cluster_id, kind, active, version, running, refusing, hosts in rows
    ]


def _conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    same = ("cluster_id", "kind", "active", "cafs_version")
    told = {name: value for name in same if (value := getattr(wanted, name)) is not None}
    conditions: list[ColumnElement[bool]] = [getattr(Host, name) == value for name, value in told.items()]
    if wanted.clusters is not None:
        conditions.append(Host.cluster_id.in_(wanted.clusters))
    if wanted.refuses is not None:
        conditions.append((Host.refused != "") == wanted.refuses)
    if wanted.current is not None:
        newest = select(Cluster.configuration).where(Cluster.id == Host.cluster_id).scalar_subquery()
        conditions.append(func.coalesce(Host.running == newest, False) == wanted.current)
    if wanted.text:
        within = (column.icontains(wanted.text, autoescape=True) for column in (Host.hostname, Host.address))
        conditions.append(or_(*within))
    return conditions
