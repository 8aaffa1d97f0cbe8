"""Questions to the statistics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, false, func, select
from sqlalchemy.orm import Session

from cafs.core.statistics.amounts import AMOUNTS, LEVELS
from cafs.manager.statistics.keeping import Of
from cafs.manager.statistics.tidying import levels_now
from cafs.manager.tables import STATISTIC, Host, Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which rows."""

    of: Of
    subject: str
    """Whose; empty for a cluster."""
    clusters: Collection[int] | None
    """Only in these; None: in any, and in none."""
    resolution_s: int
    begin: int
    """Seconds since 1970, a multiple of the resolution; and up to, not with, ``end``."""
    end: int


@dataclass(frozen=True, slots=True)
class Step:
    """What happened in one step of a series."""

    amounts: dict[str, int]
    levels: dict[str, int | None]


NOTHING = Step({}, {})


def read_series(
    session: Session, span: Span, step_s: int, amounts: Sequence[str], levels: Sequence[str]
) -> dict[int, Step]:
    """By the moment at which a step begins; those in which nothing happened are left out.

    Args:
        session: Where to look.
        span: Which rows.
        step_s: A multiple of the span's resolution.
        amounts: Which of them; summed up.
        levels: Which of them; summed up over clusters, and the mean over a step.
    """
    names = [*amounts, *levels]
    sums = [func.sum(STATISTIC.c[name]).label(name) for name in names]
    moments = select(STATISTIC.c.at, *sums).where(_of_one(span))
    by_moment = moments.group_by(STATISTIC.c.at).subquery()
    begins = (by_moment.c.at - by_moment.c.at % step_s).label("begins")
    wanted: list[Any] = [func.sum(by_moment.c[name]) for name in amounts]
    wanted += [func.avg(by_moment.c[name]) for name in levels]
    found = {}
    for at, *values in session.execute(select(begins, *wanted).group_by(begins)):
        numbers = [None if value is None else round(value) for value in values]
        found[at] = Step(
            {name: number or 0 for name, number in zip(amounts, numbers, strict=False)},
            dict(zip(levels, numbers[len(amounts) :], strict=True)),
        )
    return found


def levels_before(session: Session, span: Span, levels: Sequence[str]) -> dict[str, int | None]:
    """What a host's levels were when the span begins, as far as is known: it says them when they change."""
    reporter = session.get(Reporter, span.subject)
    if reporter is None or not _is_seen(session, span):
        return {}
    if reporter.at < span.begin:
        return {name: getattr(reporter, name) for name in levels}
    kind, columns = STATISTIC.c.kind.concat(""), [STATISTIC.c[name] for name in levels]
    earlier = and_(
        kind == span.of.value,
        STATISTIC.c.subject == span.subject,
        STATISTIC.c.at < span.begin,
        columns[0].is_not(None),
    )
    newest_first = select(*columns).where(earlier).order_by(STATISTIC.c.at.desc(), STATISTIC.c.resolution_s)
    found = session.execute(newest_first.limit(1)).first()
    return {} if found is None else dict(zip(levels, found, strict=True))


def carry_levels(steps: Iterable[Step], before: Mapping[str, int | None]) -> list[Step]:
    """Of a host, which says its levels when they change: in between they are what they were. Pure."""
    known, carried = dict(before), []
    for step in steps:
        known |= {name: level for name, level in step.levels.items() if level is not None}
        carried.append(Step(step.amounts, dict(known)))
    return carried


def read_totals(session: Session, span: Span) -> tuple[Step, list[int]]:
    """Of all of the span, levels as of now; and in which clusters anything happened."""
    sums = [func.sum(STATISTIC.c[name]) for name in AMOUNTS]
    by_cluster = select(STATISTIC.c.cluster_id, *sums).where(_of_one(span))
    amounts = dict.fromkeys(AMOUNTS, 0)
    clusters = []
    for cluster_id, *values in session.execute(by_cluster.group_by(STATISTIC.c.cluster_id)):
        found = {name: int(value) for name, value in zip(AMOUNTS, values, strict=True)}
        if any(found.values()):
            clusters.append(cluster_id)
        amounts = {name: amounts[name] + found[name] for name in AMOUNTS}
    return Step(amounts, _levels(session, span)), sorted(clusters)


def read_top(session: Session, span: Span, metric: str, limit: int) -> list[tuple[str, Step]]:
    """Hosts, applications or tasks with the most of an amount, the first the one with the most.

    Args:
        session: Where to look.
        span: Which rows, of all subjects.
        metric: The amount.
        limit: How many at most.
    """
    amount = func.sum(STATISTIC.c[metric])
    named = and_(_rows(span), STATISTIC.c.subject != "")
    order = select(STATISTIC.c.subject).where(named).group_by(STATISTIC.c.subject).having(amount > 0)
    subjects = session.scalars(order.order_by(amount.desc(), STATISTIC.c.subject).limit(limit)).all()
    sums = [func.sum(STATISTIC.c[name]) for name in AMOUNTS]
    query = select(STATISTIC.c.subject, *sums).where(named, STATISTIC.c.subject.in_(subjects))
    found = {
        subject: Step({name: int(value) for name, value in zip(AMOUNTS, values, strict=True)}, {})
        for subject, *values in session.execute(query.group_by(STATISTIC.c.subject))
    }
    return [(subject, found[subject]) for subject in subjects if subject in found]


def _of_one(span: Span) -> Any:
    # A kind that is put together is in no index: SQLite would look through all that happened in the time,
    # and not only at what the index has of this one.
    kind = STATISTIC.c.kind if span.of is Of.CLUSTER else STATISTIC.c.kind.concat("")
    return and_(_rows(span, kind), STATISTIC.c.subject == span.subject)


def _rows(span: Span, kind: Any = STATISTIC.c.kind) -> Any:
    which = and_(
        kind == span.of.value,
        STATISTIC.c.resolution_s == span.resolution_s,
        STATISTIC.c.at >= span.begin,
        STATISTIC.c.at < span.end,
    )
    return which if span.clusters is None else and_(which, _in_any(span.clusters))


def _in_any(clusters: Collection[int]) -> Any:
    return STATISTIC.c.cluster_id.in_(sorted(clusters)) if clusters else false()


def _levels(session: Session, span: Span) -> dict[str, int | None]:
    if span.of is Of.CLUSTER:
        found = levels_now(session)
        mine = [found[each] for each in found if span.clusters is None or each in span.clusters]
        return {name: sum(levels[name] for levels in mine) for name in LEVELS}
    if span.of is not Of.HOST or not _is_seen(session, span):
        return {}
    reporter = session.get(Reporter, span.subject)
    return {} if reporter is None else {name: getattr(reporter, name) for name in LEVELS}


def _is_seen(session: Session, span: Span) -> bool:
    """The host is in one of the clusters, or was when something happened."""
    if span.clusters is None:
        return True
    host = session.get(Host, span.subject)
    if host is not None and host.cluster_id in span.clusters:
        return True
    query = select(STATISTIC.c.at).where(_of_one(span)).limit(1)
    return session.execute(query).first() is not None
