"""Shows the progress of work: rich bars on a terminal, plain lines elsewhere, or nothing.

Workers see ``cafs.core.progress.Progress`` and know nothing of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from cafs.cli.units import format_duration, format_rate, format_size
from cafs.core.progress import Progress, SilentProgress, Step

_LINE_EVERY_S = 5.0


@contextmanager
def open_progress(stream: TextIO, *, quiet: bool) -> Iterator[Progress]:
    """Progress on ``stream``, in the form that suits it."""
    if quiet:
        yield SilentProgress()
    elif stream.isatty():
        from cafs.cli.bars import open_bars  # noqa: PLC0415 -- loads rich

        with open_bars(stream) as bars:
            yield bars
    else:
        yield LineProgress(stream, time.monotonic)


class Tally:
    """Counts what threads report and lets one of them through now and then to show it."""

    def __init__(self, clock: Callable[[], float], every_s: float) -> None:
        self._clock = clock
        self._every_s = every_s
        self._lock = threading.Lock()
        self.began = self._shown = clock()
        self.done = 0

    def add(self, amount: int) -> bool:
        """Count ``amount``; True when it is time to show."""
        with self._lock:
            self.done += amount
            now = self._clock()
            due = now - self._shown >= self._every_s
            if due:
                self._shown = now
            return due

    def elapsed_s(self) -> float:
        """Since the step began; never zero, it is a divisor."""
        return max(self._clock() - self.began, 1e-6)


class LineProgress:
    """A line when a step begins to take long, every few seconds from then on, and when it ends."""

    def __init__(self, stream: TextIO, clock: Callable[[], float], every_s: float = _LINE_EVERY_S) -> None:
        self._stream = stream
        self._clock = clock
        self._every_s = every_s

    def step(self, name: str, total: int | None = None, unit: str = "bytes") -> Step:
        """Begin a step; it says nothing before it takes long or ends."""
        return _LineStep(self._stream, name, total, unit, Tally(self._clock, self._every_s))


class _LineStep:
    def __init__(self, stream: TextIO, name: str, total: int | None, unit: str, tally: Tally) -> None:
        self._stream = stream
        self._name = name
        self._total = total
        self._unit = unit
        self._tally = tally

    def advance(self, amount: int) -> None:
        if self._tally.add(amount):
            self._stream.write(f"{self._name}: {self._state()}\n")

    def _state(self) -> str:
        done, elapsed_s = self._tally.done, self._tally.elapsed_s()
        words = [amount_text(done, self._total, self._unit)]
        if self._total and done:
            words[0] += f" ({100 * done // self._total}%)"
        words.append(rate_text(done / elapsed_s, self._unit))
        if self._total and 0 < done < self._total:
            words.append(format_duration((self._total - done) * elapsed_s / done) + " left")
        return ", ".join(words)

    def finish(self, note: str = "") -> None:
        elapsed_s = self._tally.elapsed_s()
        amount = amount_text(self._tally.done, None, self._unit)
        rate = rate_text(self._tally.done / elapsed_s, self._unit)
        said = note or (f"{amount} in {format_duration(elapsed_s)}, {rate}" if self._tally.done else "done")
        self._stream.write(f"{self._name}: {said}\n")


def amount_text(done: int, total: int | None, unit: str) -> str:
    """``"12.3 MiB of 1.00 GiB"``, ``"17 of 40 files"``."""
    if unit == "bytes":
        return format_size(done) + (f" of {format_size(total)}" if total else "")
    return f"{done:,}" + (f" of {total:,}" if total else "") + f" {unit}"


def rate_text(per_s: float, unit: str) -> str:
    """``"12.3 MiB/s"``, ``"900 files/s"``."""
    return format_rate(per_s) if unit == "bytes" else f"{per_s:,.0f} {unit}/s"
