"""Reports of services, checked: nothing malformed gets further. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from cafs.core.statistics.amounts import AMOUNTS, LEVELS, MOST_AMOUNT, MOST_LEVEL
from cafs.core.statistics.shares import MOST_TOLD
from cafs.errors import ProtocolError
from cafs.proto import manager_pb2

_LIFE = re.compile(r"[0-9a-f]{32}")
_NAME_BYTES = 255
_MOST_NUMBER = 1 << 62
_KNOWN_AMOUNTS, _KNOWN_LEVELS = frozenset(AMOUNTS), frozenset(LEVELS)


@dataclass(frozen=True, slots=True)
class Told:
    """A report."""

    life: str
    number: int
    all: dict[str, int]
    tasks: dict[str, dict[str, int]]
    applications: dict[str, dict[str, int]]
    levels: dict[str, int]


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
        _counts(report.all),
        _parts(report.tasks),
        _parts(report.applications),
        {**dict.fromkeys(LEVELS, 0), **_numbers(report.levels, MOST_LEVEL, _KNOWN_LEVELS)},
    )


def rest_of(whole: dict[str, int], parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """What the parts leave over."""
    told: Counter[str] = Counter()
    for part in parts:
        told.update(part)
    return {name: count - told[name] for name, count in whole.items() if count > told[name]}


def _parts(parts: Iterable[manager_pb2.Part]) -> dict[str, dict[str, int]]:
    return {_name(part.name): _counts(part.counts) for part in parts}


def _name(name: str) -> str:
    if not name or len(name.encode()) > _NAME_BYTES or not name.isprintable():
        raise ProtocolError(f"report: a name is empty, longer than {_NAME_BYTES} bytes, or not printable")
    return name


def _counts(counts: manager_pb2.Counts) -> dict[str, int]:
    return _numbers(counts, MOST_AMOUNT, _KNOWN_AMOUNTS)


def _numbers(
    message: manager_pb2.Counts | manager_pb2.Levels, most: int, known: frozenset[str]
) -> dict[str, int]:
    found = {field.name: value for field, value in message.ListFields()}
    if any(value > most for value in found.values()):
        raise ProtocolError(f"report: a number above {most}")
    return {name: value for name, value in found.items() if name in known}
