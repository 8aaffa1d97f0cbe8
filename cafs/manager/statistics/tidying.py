"""Once a minute: levels of clusters are looked at, small things are summed up, and what is old goes.

Several replicas may do it at once: levels are set and not added, and what was summed up or removed is gone
for the other one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import and_, delete, func, select
from sqlalchemy.orm import Session

from cafs.core.statistics.amounts import AMOUNTS, LEVELS, SOURCES
from cafs.manager.clusters.hosts import FORGOTTEN_AFTER
from cafs.manager.database import Database
from cafs.manager.statistics.keeping import GRAINS, Grain, Of
from cafs.manager.statistics.rows import Row
from cafs.manager.statistics.writing import add_rows
from cafs.manager.tables import STATISTIC, Host, Reporter

_LEVELS_FROM_S = 60
"""Levels of clusters are in rows of this resolution and coarser ones."""
_AT_ONCE = 500
_WEIGHT = sum((STATISTIC.c[name] for name in (*SOURCES, "upload_bytes")), start=0 * STATISTIC.c.at)


def tidy(database: Database, now: int) -> None:
    """Do it; ``now`` in seconds since 1970.

    Raises:
        UnavailableError: the database does not answer.
    """
    with database.writing() as session:
        _note_levels(session, now)
    for of, grains in GRAINS.items():
        for grain in grains:
            with database.writing() as session:
                session.execute(
                    delete(STATISTIC).where(_rows(of, grain), STATISTIC.c.at < now - grain.kept_s)
                )
                for before in (0, grain.resolution_s) if grain.most else ():
                    at = now - before
                    _sum_up_small(session, of, grain, at - at % grain.resolution_s)
    with database.writing() as session:
        old = now - int(FORGOTTEN_AFTER.total_seconds())
        session.execute(delete(Reporter).where(Reporter.at < old))


def levels_now(session: Session) -> dict[int, dict[str, int]]:
    """By cluster (0: none), of hosts that are here."""
    sums = [func.sum(getattr(Reporter, name)) for name in LEVELS]
    query = (
        select(Host.cluster_id, *sums)
        .join(Reporter, Reporter.host_id == Host.id)
        .where(Host.active)
        .group_by(Host.cluster_id)
    )
    return {
        cluster_id or 0: {name: int(value) for name, value in zip(LEVELS, values, strict=True)}
        for cluster_id, *values in session.execute(query)
    }


def _note_levels(session: Session, now: int) -> None:
    nothing = (0,) * len(AMOUNTS)
    rows: list[Row] = []
    for cluster_id, levels in sorted(levels_now(session).items()):
        for grain in GRAINS[Of.CLUSTER]:
            if grain.resolution_s >= _LEVELS_FROM_S:
                key = Of.CLUSTER.value, grain.resolution_s, now - now % grain.resolution_s, "", cluster_id
                rows.append((*key, *nothing, *(levels[name] for name in LEVELS)))
    add_rows(session, rows)


def _sum_up_small(session: Session, of: Of, grain: Grain, at: int) -> None:
    """Of the things of one moment so many stay; the others become one."""
    here = _rows(of, grain) & (STATISTIC.c.at == at) & (STATISTIC.c.subject != "")
    counts = select(STATISTIC.c.cluster_id).where(here).group_by(STATISTIC.c.cluster_id)
    for cluster_id in session.scalars(counts.having(func.count() > grain.most)).all():
        found = select(STATISTIC.c.subject).where(here, STATISTIC.c.cluster_id == cluster_id)
        small = session.scalars(found.order_by(_WEIGHT.desc(), STATISTIC.c.subject).offset(grain.most)).all()
        for first in range(0, len(small), _AT_ONCE):
            mine = here & (STATISTIC.c.cluster_id == cluster_id)
            mine &= STATISTIC.c.subject.in_(small[first : first + _AT_ONCE])
            _sum_up(session, of, grain, cluster_id, at, mine)


def _sum_up(session: Session, of: Of, grain: Grain, cluster_id: int, at: int, which: Any) -> None:  # noqa: PLR0917
    gone = delete(STATISTIC).where(which).returning(*(STATISTIC.c[name] for name in AMOUNTS))
    rows = session.execute(gone).all()
    sums = [sum(column) for column in zip(*rows, strict=True)] or [0] * len(AMOUNTS)
    add_rows(session, [(of.value, grain.resolution_s, at, "", cluster_id, *sums, *(None for _ in LEVELS))])


def _rows(of: Of, grain: Grain) -> Any:
    return and_(STATISTIC.c.kind == of.value, STATISTIC.c.resolution_s == grain.resolution_s)
