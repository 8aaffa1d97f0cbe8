"""Statistics into the database: a batch in one transaction, with the numbers by which it is counted once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import Dialect, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cafs.core.statistics.amounts import AMOUNTS, LEVELS
from cafs.manager.statistics.rows import COLUMNS, Arrived, Row, sums_of
from cafs.manager.tables import STATISTIC, Reporter

_AT_ONCE = 500
"""Values in one statement: SQLite takes 32,766."""
_KEY = ("kind", "resolution_s", "at", "subject", "cluster_id")


def write_reports(session: Session, reports: Sequence[Arrived], at: int) -> list[Arrived]:
    """Count those that were not counted yet; these are returned.

    Args:
        session: A transaction.
        reports: One of a host at most.
        at: Now, in seconds since 1970.
    """
    by_host = {arrived.host_id: arrived for arrived in reports}
    known = _hold(session, sorted(by_host))
    new = [
        arrived for host_id, arrived in sorted(by_host.items()) if not _is_counted(known[host_id], arrived)
    ]
    add_rows(session, sums_of(new, at).rows())
    _note_counted(session, new, at)
    return new


def add_rows(session: Session, rows: Sequence[Row]) -> None:
    """Add amounts to what is there, and set levels, where they are known."""
    if not rows:
        return
    statement = _insert(session.get_bind().dialect)(STATISTIC).values(
        {name: bindparam(name) for name in COLUMNS}
    )
    changes = {name: STATISTIC.c[name] + statement.excluded[name] for name in AMOUNTS}
    changes |= {name: func.coalesce(statement.excluded[name], STATISTIC.c[name]) for name in LEVELS}
    # By the driver's own executemany: SQLAlchemy takes as long for a row's parameters, though none of these
    # needs a conversion, as SQLite takes for the row, and holds the interpreter meanwhile.
    connection = session.connection()
    compiled = statement.on_conflict_do_update(index_elements=list(_KEY), set_=changes).compile(
        dialect=connection.dialect
    )
    connection.exec_driver_sql(compiled.string, _as_taken(rows, compiled.positiontup))


def _as_taken(rows: Sequence[Row], names: Sequence[str] | None) -> list[Any]:
    """By place, as the driver wants them, or else by name."""
    if names is None:
        return [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return [*map(itemgetter(*map(COLUMNS.index, names)), rows)]


def _is_counted(known: tuple[str, int], arrived: Arrived) -> bool:
    life, number = known
    return life == arrived.told.life and arrived.told.number <= number


def _hold(session: Session, host_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    """What was counted of each last. Nobody else counts anything of them before this transaction ends."""
    found = _look(session, host_ids)
    missing = [host_id for host_id in host_ids if host_id not in found]
    if missing:
        first = _insert(session.get_bind().dialect)(Reporter).on_conflict_do_nothing()
        nothing = {"life": "", "number": 0, "at": 0, **dict.fromkeys(LEVELS, 0)}
        session.connection().execute(first, [{"host_id": host_id, **nothing} for host_id in missing])
        found |= _look(session, missing)
    return found


def _look(session: Session, host_ids: Sequence[str]) -> dict[str, tuple[str, int]]:
    columns = select(Reporter.host_id, Reporter.life, Reporter.number).with_for_update()
    found = {}
    for part in _parts(host_ids):
        query = columns.where(Reporter.host_id.in_(part)).order_by(Reporter.host_id)
        found.update({host_id: (life, number) for host_id, life, number in session.execute(query)})
    return found


def _note_counted(session: Session, reports: Sequence[Arrived], at: int) -> None:
    if not reports:
        return
    statement = _insert(session.get_bind().dialect)(Reporter)
    changes = {name: statement.excluded[name] for name in ("life", "number", "at", *LEVELS)}
    rows = [
        {
            "host_id": arrived.host_id,
            "life": arrived.told.life,
            "number": arrived.told.number,
            "at": at,
            **dict(zip(LEVELS, arrived.told.levels, strict=True)),
        }
        for arrived in reports
    ]
    session.connection().execute(
        statement.on_conflict_do_update(index_elements=["host_id"], set_=changes), rows
    )


def _insert(dialect: Dialect) -> Any:
    return (sqlite if dialect.name == "sqlite" else postgresql).insert


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for first in range(0, len(names), _AT_ONCE):
        yield names[first : first + _AT_ONCE]
