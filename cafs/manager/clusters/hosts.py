"""Hosts in the database: who is here, who was."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Dialect, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cafs.errors import NotFoundError, StateError
from cafs.manager.clusters.catalogue import note_change
from cafs.manager.tables import Host

FORGOTTEN_AFTER = timedelta(days=30)
STILL_ASKED = timedelta(hours=1)
MOST_SCHEDULERS = 64
"""Of one cluster."""
_AT_ONCE = 500
"""Rows in one statement: SQLite takes 32,766 values."""
_KEPT = frozenset({"id", "first_seen_at"})


def write_arrivals(session: Session, rows: Iterable[dict[str, Any]]) -> None:
    """They are here, with all that ``rows`` say of them; known ones are replaced."""
    found = list(rows)
    for first in range(0, len(found), _AT_ONCE):
        part = found[first : first + _AT_ONCE]
        statement: Any = _insert(session.get_bind().dialect).values(part)
        changes = {name: statement.excluded[name] for name in part[0] if name not in _KEPT}
        session.execute(statement.on_conflict_do_update(index_elements=[Host.id], set_=changes))


def _insert(dialect: Dialect) -> Any:
    return (sqlite if dialect.name == "sqlite" else postgresql).insert(Host)


def write_departures(session: Session, host_ids: Iterable[str], replica_id: str) -> None:
    """They are not here any more, unless they came back by another replica."""
    found = list(host_ids)
    for first in range(0, len(found), _AT_ONCE):
        part = found[first : first + _AT_ONCE]
        gone = update(Host).where(Host.id.in_(part), Host.replica_id == replica_id, Host.active)
        session.execute(gone.values(active=False, since=datetime.now(UTC)))


def write_moves(session: Session, moves: Iterable[tuple[str, int | None]]) -> None:
    """They belong to other clusters now."""
    by_cluster: dict[int | None, list[str]] = {}
    for host_id, cluster_id in moves:
        by_cluster.setdefault(cluster_id, []).append(host_id)
    for cluster_id, found in by_cluster.items():
        for first in range(0, len(found), _AT_ONCE):
            part = found[first : first + _AT_ONCE]
            moved = {"cluster_id": cluster_id, "running": None, "refused": ""}
            session.execute(update(Host).where(Host.id.in_(part)).values(**moved))


def write_runs(session: Session, rows: Iterable[dict[str, Any]]) -> None:
    """Which configurations they run: ``id``, ``running``, ``refused`` of each."""
    found = list(rows)
    if found:
        known = update(Host).where(Host.id == bindparam("host_id"))
        told = known.values(running=bindparam("now_running"), refused=bindparam("now_refused"))
        session.connection().execute(
            told,
            [
                {"host_id": row["id"], "now_running": row["running"], "now_refused": row["refused"]}
                for row in found
            ],
        )


def all_gone(session: Session, replicas: Collection[str] | None) -> None:
    """Nobody is here by these replicas any more; None: by any."""
    gone = update(Host).where(Host.active).values(active=False, since=datetime.now(UTC))
    session.execute(gone if replicas is None else gone.where(Host.replica_id.in_(replicas)))


def forget_old(session: Session) -> None:
    """Hosts that were not here for so long are removed."""
    old = datetime.now(UTC) - FORGOTTEN_AFTER
    session.execute(delete(Host).where(~Host.active, Host.since < old))


def scheduler_addresses(session: Session) -> dict[int, tuple[str, ...]]:
    """Of the schedulers of each cluster: those that are here, and those that left a moment ago.

    A scheduler that merely lost its manager goes on, so hosts go on to ask it; one that ended costs them
    little, until it is forgotten here.
    """
    lately = datetime.now(UTC) - STILL_ASKED
    there = select(Host.cluster_id, Host.address).where(
        Host.kind == "scheduler", Host.active | (Host.since > lately)
    )
    found: dict[int, set[str]] = {}
    for cluster_id, address in session.execute(there):
        if cluster_id is not None:
            found.setdefault(cluster_id, set()).add(address)
    return {cluster_id: tuple(sorted(each)[:MOST_SCHEDULERS]) for cluster_id, each in found.items()}


def is_scheduler(session: Session, host_id: str, address: str) -> bool:
    """Whether one that goes by this id and address is here now, with whichever replica."""
    query = select(Host.id).where(
        Host.id == host_id, Host.kind == "scheduler", Host.address == address, Host.active
    )
    return session.scalar(query) is not None


def get_host(session: Session, host_id: str) -> Host:
    """One of them.

    Raises:
        NotFoundError: it was never here, or is forgotten.
    """
    host = session.get(Host, host_id)
    if host is None:
        raise NotFoundError("there is no such host")
    return host


def forget_host(session: Session, host: Host) -> None:
    """Remove one that is not here; it may come again.

    Raises:
        StateError: it is here.
    """
    if host.active:
        raise StateError("it is active: only hosts that are gone can be forgotten")
    session.delete(host)
    if host.kind == "scheduler":
        note_change(session)  # nobody is told of it any more
