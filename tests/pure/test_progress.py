import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cafs.cli.bars import open_bars
from cafs.cli.progress import LineProgress, open_progress
from cafs.core.progress import Progress, SilentProgress, deferred


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_short_work_says_one_line() -> None:
    clock, out = Clock(), io.StringIO()
    step = LineProgress(out, clock).step("layer 1 of 2", 2 << 20)
    step.advance(1 << 20)
    clock.now += 2
    step.advance(1 << 20)
    step.finish()
    assert out.getvalue() == "layer 1 of 2: 2.00 MiB in 2.00 s, 1.00 MiB/s\n"


def test_long_work_says_how_far_it_is_and_how_long_it_takes() -> None:
    clock, out = Clock(), io.StringIO()
    step = LineProgress(out, clock).step("tree", 1000, unit="files")
    for _ in range(80):
        clock.now += 0.125
        step.advance(2)
    step.finish("reused")
    first, *_, last = out.getvalue().splitlines()
    assert first == "tree: 80 of 1,000 files (8%), 16 files/s, 58 s left"
    assert last == "tree: reused"
    assert len(out.getvalue().splitlines()) == 3


def test_without_a_total_nothing_is_guessed() -> None:
    clock, out = Clock(), io.StringIO()
    step = LineProgress(out, clock).step("blob")
    clock.now += 6
    step.advance(6 << 20)
    assert out.getvalue() == "blob: 6.00 MiB, 1.00 MiB/s\n"


def test_the_form_follows_the_stream() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with open_progress(Terminal(), quiet=True) as progress:
        assert isinstance(progress, SilentProgress)
    out = Terminal()
    with open_progress(out, quiet=False) as progress:
        step = progress.step("layer [1]", 1 << 20)
        step.advance(1 << 20)
        step.finish()
        other = progress.step("layer [2]", 5)
        other.finish("reused")
    shown = out.getvalue()
    assert "layer [1]" in shown
    assert "1.00 MiB" in shown
    assert "reused" in shown


def test_bars_show_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rich draws them on a terminal, by a clock set by hand."""
    monkeypatch.setenv("COLUMNS", "100")
    clock, out = Clock(), io.StringIO()
    with open_bars(out, clock) as progress:
        step = progress.step("layer 1 of 2", 100 << 20)
        for _ in range(10):
            clock.now += 1
            step.advance(5 << 20)
    shown = out.getvalue()
    assert re.search(r"layer 1 of 2 .* 50\.0 MiB of 100 MiB 5\.00 MiB/s 10 s left", shown), shown


def test_deferred_progress_is_opened_once_and_closed() -> None:
    opened: list[str] = []

    @contextmanager
    def show() -> Iterator[Progress]:
        opened.append("opened")
        yield SilentProgress()
        opened.append("closed")

    with deferred(show) as progress:
        assert opened == []
        progress.step("one")
        progress.step("two")
        assert opened == ["opened"]
    assert opened == ["opened", "closed"]
    with deferred(show):
        pass
    assert opened == ["opened", "closed"]
