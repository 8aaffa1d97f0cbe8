"""How long work tells how far it is, without knowing who listens.

Workers take a ``Progress`` and report to it; ``cafs.cli.progress`` shows it on a terminal, tests use
``SilentProgress`` or a recorder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol


class Step(Protocol):
    """One bar: a layer, a blob, a walk.

    ``advance`` may be called from any thread, thousands of times a second.
    """

    def advance(self, amount: int) -> None:
        """``amount`` more is done, in the unit the step was begun with."""
        ...

    def finish(self, note: str = "") -> None:
        """The step is over; ``note`` says how it ended where that is worth a word ("reused").

        Must be called once, also after a failure.
        """
        ...


class Progress(Protocol):
    """Where steps are begun. May be used from any thread."""

    def step(self, name: str, total: int | None = None, unit: str = "bytes") -> Step:
        """Begin a step.

        Args:
            name: A few words, as in "layer 3 of 7".
            total: How much there is to do, or None when nobody knows.
            unit: "bytes" is shown as sizes and rates; any other word is counted ("files").
        """
        ...


class SilentStep:
    """A step that nobody watches."""

    def advance(self, amount: int) -> None:
        """Nothing."""

    def finish(self, note: str = "") -> None:
        """Nothing."""


class SilentProgress:
    """Progress that nobody watches."""

    def step(self, name: str, total: int | None = None, unit: str = "bytes") -> Step:
        """A step that says nothing."""
        return SilentStep()


@contextmanager
def deferred(show: Callable[[], AbstractContextManager[Progress]]) -> Iterator[Progress]:
    """Progress that is opened by ``show`` when the first step begins, and never where there is none."""
    with ExitStack() as stack:
        yield _Deferred(stack, show)


class _Deferred:
    def __init__(self, stack: ExitStack, show: Callable[[], AbstractContextManager[Progress]]) -> None:
        self._stack = stack
        self._show = show
        self._lock = threading.Lock()
        self._shown: Progress | None = None

    def step(self, name: str, total: int | None = None, unit: str = "bytes") -> Step:
        """See ``Progress``."""
        with self._lock:
            if self._shown is None:
                self._shown = self._stack.enter_context(self._show())
        return self._shown.step(name, total, unit)
