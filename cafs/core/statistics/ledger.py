"""What a service tells of its figures, and when: each thing once, whatever is lost on the way. Pure.

A report has what was added since the one before, and a number; it is said until the manager has it
(``counted``), and only then comes the next one. The manager counts a number once. So neither a broken stream
nor a restart of the manager loses or doubles anything; what was added meanwhile is in the next report. A
service that ends in order keeps what was not counted yet for its next start (``kept``); one that is killed
loses it, and counts under another ``life``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cafs.core.statistics.amounts import AMOUNTS, MOST_AMOUNT, since
from cafs.core.statistics.shares import MOST_TOLD, Parts, Shares

USUAL_S, LONGEST_S = 5.0, 300.0
_AGAIN = 4
"""A report that is not counted after so many times the usual pause is said again."""
_LIFE = re.compile(r"[0-9a-f]{32}")
_MOST_NAME_BYTES = 255
_MOST_NUMBER = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """See the module."""

    life: str
    number: int
    """1, 2, 3..."""
    amounts: Counter[str] = field(default_factory=Counter)
    """All that was added."""
    tasks: Parts = field(default_factory=dict)
    """Of these the parts of some tasks, and of some applications."""
    applications: Parts = field(default_factory=dict)
    levels: Mapping[str, int] = field(default_factory=dict)


class Ledger:
    """See the module. ``now`` is of any clock that only goes forward, in seconds."""

    def __init__(
        self,
        life: str,
        read: Callable[[], Mapping[str, int]],
        levels: Callable[[], Mapping[str, int]] = dict,
        shares: Shares | None = None,
    ) -> None:
        """
        Args:
            life: Of this counting: random, 32 hex digits.
            read: What was counted since the start.
            levels: As of now.
            shares: Which part belongs to whom.
        """
        self._life = life
        self._read = read
        self._levels = levels
        self._shares = shares if shares is not None else Shares()
        self._seen: Mapping[str, int] = {}
        self._left: Counter[str] = Counter()
        """From before the last start, and not told yet."""
        self._told_levels: Mapping[str, int] = {}
        self._number = 0
        self._waiting: Report | None = None
        self._usual_s = self._pause_s = USUAL_S
        self._next_at = float("-inf")

    def due_in(self, now: float) -> float:
        """So long there is nothing to be said."""
        return max(0.0, self._next_at - now)

    def on_stream(self) -> None:
        """A stream began: the next report is due."""
        self._next_at = float("-inf")
        self._pause_s = self._usual_s

    def due(self, now: float) -> Report | None:
        """What is to be said now, if anything."""
        if now < self._next_at:
            return None
        if self._waiting is not None:
            # An older manager never counts anything: it is bothered less and less.
            self._next_at = now + self._pause_s * _AGAIN
            self._pause_s = min(2 * self._pause_s, LONGEST_S)
            return self._waiting
        self._waiting = self._next()
        self._next_at = now + self._usual_s * (_AGAIN if self._waiting is not None else 1)
        return self._waiting

    def counted(self, life: str, number: int, pause_s: float, now: float) -> None:
        """The manager has a report, and wants the next one after so long."""
        self._usual_s = self._pause_s = min(max(pause_s, 0.05), LONGEST_S)
        waiting = self._waiting
        if waiting is not None and (waiting.life, waiting.number) == (life, number):
            self._waiting = None
            self._told_levels = waiting.levels
            self._next_at = now + self._usual_s

    def _next(self) -> Report | None:
        amounts = self._added()
        levels = dict(self._levels())
        tasks, applications = self._shares.take()
        if not amounts and levels == self._told_levels:
            return None
        self._number += 1
        return Report(
            life=self._life,
            number=self._number,
            amounts=amounts,
            tasks=tasks,
            applications=applications,
            levels=levels,
        )

    def _added(self) -> Counter[str]:
        now = dict(self._read())
        amounts = since(now, self._seen) + self._left
        self._seen = now
        told = Counter({name: min(count, MOST_AMOUNT) for name, count in amounts.items()})
        self._left = amounts - told
        return told

    def kept(self) -> dict[str, Any]:
        """As JSON, for the next start: what was not counted, and under which numbers."""
        waiting, self._waiting = self._waiting, None
        rest = self._added() + self._left
        return {
            "life": self._life,
            "number": self._number,
            "rest": rest,
            "waiting": None
            if waiting is None
            else {
                "number": waiting.number,
                "amounts": waiting.amounts,
                "tasks": waiting.tasks,
                "applications": waiting.applications,
            },
        }

    def recall(self, kept: Any) -> None:
        """Go on from there, before anything was said.

        Raises:
            ValueError: it is nothing that was kept.
        """
        match kept:
            case {"life": str(life), "number": int(number), "rest": rest, "waiting": waiting}:
                pass
            case _:
                raise ValueError("fields are missing")
        if not _LIFE.fullmatch(life) or not 0 <= number < _MOST_NUMBER:
            raise ValueError("life or number is none")
        left, report = _amounts(rest), None
        if waiting is not None:
            report = _report(waiting, life)
            if report.number > number:
                raise ValueError("number is none")
        self._life, self._number, self._left = life, number, left
        self._waiting = None if report is None else replace(report, levels=dict(self._levels()))


def _report(kept: Any, life: str) -> Report:
    match kept:
        case {"number": int(number), "amounts": amounts, "tasks": tasks, "applications": applications}:
            return Report(
                life=life,
                number=number,
                amounts=_amounts(amounts),
                tasks=_parts(tasks),
                applications=_parts(applications),
            )
        case _:
            raise ValueError("fields are missing")


def _parts(kept: Any) -> Parts:
    if not isinstance(kept, dict) or len(kept) > MOST_TOLD:
        raise ValueError("parts are none")
    if any(len(str(name).encode(errors="replace")) > _MOST_NAME_BYTES for name in kept):
        raise ValueError("a name is too long")
    return {str(name): _amounts(amounts) for name, amounts in kept.items()}


def _amounts(kept: Any) -> Counter[str]:
    if not isinstance(kept, dict):
        raise ValueError("amounts are none")  # noqa: TRY004 - what a file says is no type of ours
    found: Counter[str] = Counter()
    for name, count in kept.items():
        if name not in AMOUNTS or type(count) is not int or not 0 <= count < _MOST_NUMBER:
            raise ValueError("an amount is none")
        found[name] = count
    return found
