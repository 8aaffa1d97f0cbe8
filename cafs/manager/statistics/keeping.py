"""How finely what is kept, and for how long. Pure. docs/manager.md has the table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_HOUR, _DAY = 3600, 86_400


class Of(StrEnum):
    """Whose statistics."""

    CLUSTER = "cluster"
    HOST = "host"
    APPLICATION = "application"
    TASK = "task"


@dataclass(frozen=True, slots=True)
class Grain:
    """Rows of one resolution."""

    resolution_s: int
    kept_s: int
    most: int = 0
    """Things in one cluster at one time; the others are summed up as one. 0: there are no more than hosts."""


GRAINS = {
    Of.CLUSTER: (Grain(10, 2 * _HOUR), Grain(60, _DAY), Grain(_HOUR, 366 * _DAY)),
    Of.HOST: (Grain(60, 2 * _HOUR), Grain(_HOUR, 7 * _DAY)),
    Of.APPLICATION: (Grain(60, _DAY, 50), Grain(_HOUR, 90 * _DAY, 50)),
    Of.TASK: (Grain(60, 2 * _HOUR, 200), Grain(_HOUR, 7 * _DAY, 200)),
}
"""The finest first."""
MOST_POINTS = 1500
_ASKED_LATE_S = 60
"""Who asks for the last day is told of the last day, also when the question took a moment to come."""


def grain_for(of: Of, begin: int, step_s: int, now: int, finest_s: int = 0) -> Grain:
    """The one to answer from.

    Args:
        of: Whose statistics are asked for.
        begin: The first moment that is asked for, in seconds since 1970.
        step_s: How far apart points may be.
        now: Seconds since 1970.
        finest_s: Not finer than this.
    """
    usable = [grain for grain in GRAINS[of] if grain.resolution_s >= finest_s]
    reaching = [grain for grain in usable if begin >= now - grain.kept_s - _ASKED_LATE_S] or usable[-1:]
    coarse = [grain for grain in reaching if grain.resolution_s <= step_s]
    return coarse[-1] if coarse else reaching[0]


def usual_step_s(begin: int, end: int) -> int:
    """For a chart of some 120 points."""
    wanted = max(1, (end - begin) // 120)
    steps = (10, 30, 60, 300, 600, 1800, _HOUR, 6 * _HOUR, _DAY)
    return next((step for step in steps if step >= wanted), 7 * _DAY)
