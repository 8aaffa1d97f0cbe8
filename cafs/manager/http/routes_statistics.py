"""Statistics: of the clusters that one may look at, and of their hosts, applications and tasks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from cafs.manager.http.caller import needs
from cafs.manager.http.models import MOST_ID, Told
from cafs.manager.http.parts import Here
from cafs.manager.http.problems import declared
from cafs.manager.refusals import InvalidError
from cafs.manager.statistics.asking import (
    NOTHING,
    Span,
    Step,
    carry_levels,
    levels_before,
    read_series,
    read_top,
    read_totals,
)
from cafs.manager.statistics.keeping import MOST_POINTS, Of, grain_for, usual_step_s
from cafs.manager.statistics.metrics import Metric, Value, columns_of, value_of
from cafs.manager.users.roles import Caller, Role, Scope, Where

routes = APIRouter(prefix="/statistics", tags=["statistics"])
Seer = Annotated[Caller, needs(Role.VIEWER, Scope.CLUSTERS_READ, Where.SOMEWHERE)]
_USUAL_S, _LONGEST_STEP_S, _LEVELS_EVERY_S = 3600, 366 * 86_400, 60
_TOTALS = list(Metric)
_AMOUNTS = [metric for metric in Metric if not columns_of([metric])[1]]
_COUNTED = [metric for metric in _AMOUNTS if columns_of([metric])[0] == [metric.value]]

Begin = Annotated[
    datetime | None, Query(alias="from", description="RFC 3339; usually an hour before the end.")
]
End = Annotated[datetime | None, Query(alias="to", description="RFC 3339; usually now.")]
ClusterId = Annotated[
    int | None, Query(ge=1, le=MOST_ID, description="Only in this one; else in all that one may look at.")
]


class Series(Told):
    """What happened, step by step."""

    step_s: int
    begins: list[datetime] = Field(description="Of each step.")
    values: dict[str, list[float | None]] = Field(
        description="By metric, of each step. Amounts are sums over the step; null: nothing is known."
    )


class Totals(Told):
    """What happened in all of the time."""

    begin: datetime = Field(serialization_alias="from")
    end: datetime = Field(serialization_alias="to")
    values: dict[str, float | None] = Field(description="By metric; levels are as of now.")
    clusters: list[int] = Field(description="In which any of it happened; 0: on hosts that had none.")


class TopOne(Told):
    """A host, application or task."""

    name: str
    values: dict[str, float | None]


class Top(Told):
    """Those with the most."""

    begin: datetime = Field(serialization_alias="from")
    end: datetime = Field(serialization_alias="to")
    items: list[TopOne]


@dataclass(frozen=True, slots=True)
class _Whose:
    of: Of
    subject: str
    cluster_id: int | None

    def clusters(self, caller: Caller) -> frozenset[int] | None:
        """Those that are asked for and may be looked at."""
        seen = caller.clusters()
        if self.cluster_id is None:
            return seen
        return frozenset({self.cluster_id}) if seen is None else seen & {self.cluster_id}


async def _whose(
    cluster_id: ClusterId = None,
    host_id: Annotated[str | None, Query(pattern="^[0-9a-f]{32}$")] = None,
    application: Annotated[str | None, Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")] = None,
    task_id: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None,
) -> _Whose:
    named = {Of.HOST: host_id, Of.APPLICATION: application, Of.TASK: task_id}
    given = {of: name for of, name in named.items() if name is not None}
    if len(given) > 1:
        raise InvalidError({f"{of}": "ask for one at a time" for of in given})
    for of, name in given.items():
        return _Whose(of, name, cluster_id)
    return _Whose(Of.CLUSTER, "", cluster_id)


Whose = Annotated[_Whose, Depends(_whose)]


@routes.get("/series", responses=declared(401, 403, 422, 503))
def series(  # noqa: PLR0917 - FastAPI calls it, by keyword
    caller: Seer,
    parts: Here,
    whose: Whose,
    metric: Annotated[list[Metric], Query(min_length=1, max_length=len(Metric))],
    begin: Begin = None,
    end: End = None,
    step: Annotated[
        int | None,
        Query(ge=1, le=_LONGEST_STEP_S, description="Seconds; made longer where nothing finer is kept."),
    ] = None,
) -> Series:
    """Some metrics over time."""
    now = int(time.time())
    first, last = _time(begin, end, now)
    amounts, levels = columns_of(metric)
    wanted_s = step or usual_step_s(first, last)
    grain = grain_for(whose.of, first, wanted_s, now, _LEVELS_EVERY_S if levels else 0)
    step_s = -(-wanted_s // grain.resolution_s) * grain.resolution_s
    steps = range(first - first % step_s, last, step_s)
    if len(steps) > MOST_POINTS:
        raise InvalidError({"step": f"more than {MOST_POINTS} steps: take a longer one"})
    span = _span(whose, caller, grain.resolution_s, (steps.start, last))
    with parts.database.reading() as session:
        found = read_series(session, span, step_s, amounts, levels)
        told = [found.get(at, NOTHING) for at in steps]
        if whose.of is Of.HOST and levels:
            told = carry_levels(told, levels_before(session, span, levels))
    return Series(
        step_s=step_s,
        begins=[_moment(at) for at in steps],
        values={each.value: [value_of(each, one.amounts, one.levels) for one in told] for each in metric},
    )


@routes.get("/totals", responses=declared(401, 403, 422, 503))
def totals(caller: Seer, parts: Here, whose: Whose, begin: Begin = None, end: End = None) -> Totals:
    """All metrics, summed up over a time."""
    now = int(time.time())
    first, last = _time(begin, end, now)
    resolution_s = grain_for(whose.of, first, 0, now).resolution_s
    first -= first % resolution_s
    with parts.database.reading() as session:
        found, clusters = read_totals(session, _span(whose, caller, resolution_s, (first, last)))
    values = _values(found, _TOTALS)
    return Totals(begin=_moment(first), end=_moment(last), values=values, clusters=clusters)


@routes.get("/top", responses=declared(401, 403, 422, 503))
def top(  # noqa: PLR0917 - FastAPI calls it, by keyword
    caller: Seer,
    parts: Here,
    of: Literal["host", "application", "task"],
    by: Annotated[Metric, Query(description="An amount.")] = Metric.ORIGIN_BYTES,
    cluster_id: ClusterId = None,
    begin: Begin = None,
    end: End = None,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
) -> Top:
    """Hosts, applications or tasks with the most of something."""
    if by not in _COUNTED:
        raise InvalidError({"by": "this is no amount"})
    now, kind = int(time.time()), Of(of)
    first, last = _time(begin, end, now)
    resolution_s = grain_for(kind, first, last - first, now).resolution_s
    first -= first % resolution_s
    span = _span(_Whose(kind, "", cluster_id), caller, resolution_s, (first, last))
    with parts.database.reading() as session:
        found = read_top(session, span, by.value, limit)
    items = [TopOne(name=name, values=_values(one, _AMOUNTS)) for name, one in found]
    return Top(begin=_moment(first), end=_moment(last), items=items)


def _values(step: Step, metrics: list[Metric]) -> dict[str, Value]:
    return {metric.value: value_of(metric, step.amounts, step.levels) for metric in metrics}


def _span(whose: _Whose, caller: Caller, resolution_s: int, time_s: tuple[int, int]) -> Span:
    return Span(
        of=whose.of,
        subject=whose.subject,
        clusters=whose.clusters(caller),
        resolution_s=resolution_s,
        begin=time_s[0],
        end=time_s[1],
    )


def _time(begin: datetime | None, end: datetime | None, now: int) -> tuple[int, int]:
    """Seconds since 1970: what was asked for, as far as there can be anything."""
    last = now + 1 if end is None else max(1, min(_seconds(end), now + 1))
    first = max(0, last - _USUAL_S if begin is None else _seconds(begin))
    if first >= last:
        raise InvalidError({"from": "this is not before the end"})
    return first, last


def _seconds(moment: datetime) -> int:
    known: Any = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(known.timestamp())


def _moment(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)
