"""Draws progress as bars on a terminal. Loads rich, so it is imported only where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from cafs.cli.progress import Tally, amount_text, rate_text
from cafs.cli.units import format_duration
from cafs.core.progress import Progress, Step

_REDRAW_S = 0.1


@contextmanager
def open_bars(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Progress as bars on a terminal."""
    bars = Bars(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        _Amount(),
        _Rate(),
        _Left(),
        console=Console(file=stream),
        expand=True,
        refresh_per_second=8,
        get_time=clock,
    )
    with bars:
        yield _BarProgress(bars, clock)


class _BarProgress:
    def __init__(self, bars: Bars, clock: Callable[[], float]) -> None:
        self._bars = bars
        self._clock = clock

    def step(self, name: str, total: int | None = None, unit: str = "bytes") -> Step:
        task = self._bars.add_task(name, total=total, unit=unit, note="")
        return _BarStep(self._bars, task, Tally(self._clock, _REDRAW_S))


class _BarStep:
    def __init__(self, bars: Bars, task: TaskID, tally: Tally) -> None:
        self._bars = bars
        self._task = task
        self._tally = tally

    def advance(self, amount: int) -> None:
        if self._tally.add(amount):
            self._bars.update(self._task, completed=self._tally.done)

    def finish(self, note: str = "") -> None:
        # A finished bar is a full bar, also when the total was only a guess.
        done = self._tally.done
        self._bars.update(self._task, completed=done, total=done or 1, note=note or "done")
        if not done:
            self._bars.update(self._task, completed=1)
        self._bars.stop_task(self._task)


class _Amount(ProgressColumn):
    """How much of how much."""

    def render(self, task: Task) -> Text:
        unit = str(task.fields["unit"])
        total = None if task.total is None or task.finished else int(task.total)
        return Text(amount_text(int(task.completed), total, unit), justify="right")


class _Rate(ProgressColumn):
    """How much a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate_text(speed, str(task.fields["unit"])) if speed else "", justify="right")


class _Left(ProgressColumn):
    """The time left, in the end how the step ended."""

    def render(self, task: Task) -> Text:
        if task.fields["note"]:
            return Text(str(task.fields["note"]))
        left = task.time_remaining
        return Text(f"{format_duration(left)} left" if left else "")
