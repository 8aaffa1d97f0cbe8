"""How good a candidate parent is: a weighted sum of parts, each 0..1. docs/scheduler.md has the table."""

from __future__ import annotations

from functools import lru_cache
from math import exp
from typing import NamedTuple


class Parts(NamedTuple):
    """What makes a score, in the order of ``WEIGHTS``."""

    pieces: float
    """Share of the task that it has and the child lacks."""
    idle: float
    """Share of its upload requests that are free, as it said last."""
    room: float
    """Share of children it may have that it does not have yet: what was promised since it spoke."""
    speed: float
    """What a piece costs there beside what the same children pay elsewhere; 0.5: as much, or unknown."""
    success: float
    """Share of pieces that did not fail, lately."""
    idc: float
    """The same data centre."""
    location: float
    """Leading parts of the location that are the same."""
    type: float
    """A normal host: seeds are for what nobody else has."""


WEIGHTS = Parts(
    pieces=0.20, idle=0.15, room=0.15, speed=0.15, success=0.10, idc=0.10, location=0.10, type=0.05
)


_STANDS_STILL = 50.0
"""A cost so many powers of e above the usual."""
Scores = tuple[float, ...]
"""The score, then its parts."""
_A, _B, _C, _D, _E, _F, _G, _H = WEIGHTS


def scores(  # noqa: PLR0917  the parts, in their order
    a: float, b: float, c: float, d: float, e: float, f: float, g: float, h: float
) -> Scores:
    """The sum of all parts by their weights, and the parts: a tuple, for thousands are made each second."""
    return (a * _A + b * _B + c * _C + d * _D + e * _E + f * _F + g * _G + h * _H, a, b, c, d, e, f, g, h)


def share_new(parent_has: int, child_has: int, everything: int) -> float:
    """How much of what the child lacks the parent has. Of an unknown length: 0 or 1."""
    new = parent_has & ~child_has
    if not everything:
        return 1.0 if new else 0.0
    lacking = (everything & ~child_has).bit_count()
    return new.bit_count() / lacking if lacking else 0.0


def speed(relative_log_cost: float) -> float:
    """Half for the usual cost, more for a lower one."""
    return 1.0 / (1.0 + exp(relative_log_cost)) if relative_log_cost < _STANDS_STILL else 0.0


@lru_cache(maxsize=1 << 14)
def affinity(mine: tuple[str, ...], theirs: tuple[str, ...]) -> float:
    """Of locations that are not empty, widest part first: the share of parts up to the first that differs.

    Remembered: a cluster has few locations, and each newcomer compares dozens of hosts with its own.
    """
    same = 0
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            break
        same += 1
    return same / len(mine)
