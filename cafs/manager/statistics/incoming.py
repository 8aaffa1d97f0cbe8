"""Reports of services, checked: nothing malformed gets further. Pure.

Numbers are kept as tuples, in the order of their names: there are thousands a second, and a tuple is read,
added up and written by one call of the interpreter each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter, sub
from typing import Any

from cafs.core.statistics.amounts import AMOUNTS, LEVELS, MOST_AMOUNT, MOST_LEVEL
from cafs.core.statistics.shares import MOST_TOLD
from cafs.errors import ProtocolError
from cafs.proto import manager_pb2

_LIFE = re.compile(r"[0-9a-f]{32}")
_NAME_BYTES = 255
_MOST_NUMBER = 1 << 62
_amounts_of: Any = attrgetter(*AMOUNTS)
_levels_of: Any = attrgetter(*LEVELS)

Amounts = tuple[int, ...]
"""By ``AMOUNTS``."""
Levels = tuple[int, ...]
"""By ``LEVELS``."""


@dataclass(frozen=True, slots=True)
class Told:
    """A report."""

    life: str
    number: int
    all: Amounts
    tasks: dict[str, Amounts]
    applications: dict[str, Amounts]
    levels: Levels


def parse_figures(report: manager_pb2.Report) -> Told:
    """What a service says that it counted.

    Raises:
        ProtocolError: it is malformed.
    """
    if not _LIFE.fullmatch(report.life) or not 0 < report.number < _MOST_NUMBER:
        raise ProtocolError("report: life or number is none")
    if max(len(report.tasks), len(report.applications)) > MOST_TOLD:
        raise ProtocolError(f"report: more than {MOST_TOLD} parts")
    return Told(
        report.life,
        report.number,
        _bounded(_amounts_of(report.all), MOST_AMOUNT),
        _parts(report.tasks),
        _parts(report.applications),
        _bounded(_levels_of(report.levels), MOST_LEVEL),
    )


def rest_of(whole: Amounts, parts: Iterable[Amounts]) -> Amounts:
    """What the parts leave over."""
    rest = whole
    for part in parts:
        rest = tuple(map(sub, rest, part))
    return tuple([max(count, 0) for count in rest]) if min(rest) < 0 else rest


def _parts(parts: Iterable[manager_pb2.Part]) -> dict[str, Amounts]:
    return {_name(part.name): _bounded(_amounts_of(part.counts), MOST_AMOUNT) for part in parts}


def _name(name: str) -> str:
    if not name or len(name.encode()) > _NAME_BYTES or not name.isprintable():
        raise ProtocolError(f"report: a name is empty, longer than {_NAME_BYTES} bytes, or not printable")
    return name


def _bounded(numbers: tuple[int, ...], most: int) -> tuple[int, ...]:
    if max(numbers) > most:
        raise ProtocolError(f"report: a number above {most}")
    return numbers
