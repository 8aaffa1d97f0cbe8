"""What a case found, and how it stands in ``docs/benchmarks.md`` and in JSON.

The page is prose with one marked region per case; only the regions of cases that ran are replaced:

    <!-- bench:NAME -->
    ...
    <!-- /bench:NAME -->
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.measure import Samples, median, spread

PAGE_ROUNDS = 5
"""Medians of fewer are for trying something out."""


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison and the issue's word on it."""

    what: str
    ours: str
    rival: str
    ratio: str
    """Empty where there is no rival."""
    target: str
    """Empty where nothing was promised; ``met`` is None then."""
    met: bool | None


@dataclass(frozen=True, slots=True)
class Result:
    """Everything a case has to say."""

    name: str
    title: str
    text: str
    """What exactly was done and what the figures mean."""
    rows: tuple[Row, ...]
    samples: Samples = field(default_factory=dict)
    """Every single sample, by contender."""

    @property
    def met(self) -> bool:
        return all(row.met is not False for row in self.rows)


def ratio_row(
    what: str, ours: list[float], rival: tuple[str, list[float]], at_most: float | None = None
) -> Row:
    """A row for two lists of seconds: ours may take ``at_most`` times the rival's; None: nothing promised."""
    name, theirs = rival
    ratio = median(ours) / median(theirs)
    shown = (format_seconds(ours), f"{name} {format_seconds(theirs)}", f"{ratio:.2f}")
    if at_most is None:
        return Row(what, *shown, "", None)
    if at_most == 1:
        return Row(what, *shown, "under 1.00", ratio < 1)
    return Row(what, *shown, f"at most {at_most:.2f}", ratio <= at_most)


def format_seconds(samples: list[float]) -> str:
    """Median and spread."""
    middle = median(samples)
    shown = f"{middle * 1000:.0f} ms" if middle < 1 else f"{middle:.2f} s"
    return f"{shown} ±{spread(samples) * 50:.0f}%"


def markdown(result: Result, machine: str) -> str:
    """The region of one case, without its markers."""
    lines = [f"### {result.title}", "", result.text, ""]
    lines += ["| what | CAFS | rival | ratio | target | met |", "|---|---|---|---|---|---|"]
    for row in result.rows:
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        lines.append(f"| {row.what} | {row.ours} | {row.rival} | {row.ratio} | {row.target} | {met} |")
    runs = max((len(samples) for samples in result.samples.values()), default=1)
    of = f"Medians of {runs} runs" if runs > 1 else "One run"
    lines += ["", f"{of}; ± is half the distance from best to worst. Repeat: `make bench ARGS={result.name}`"]
    lines += ["", f"<sub>{machine}</sub>"]
    return "\n".join(lines)


def replace_region(page: str, name: str, content: str) -> str:
    """Put ``content`` between the markers of ``name``; markers that are missing are added at the end."""
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    region = f"{begin}\n{content}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: region, page, count=1)
    return page.rstrip("\n") + f"\n\n{region}\n"


def may_write_page(rounds: int) -> bool:
    """Whether so many rounds are enough to take the place of what the page says."""
    return rounds >= PAGE_ROUNDS


def write_page(page: Path, results: list[Result], machine: str) -> None:
    """Bring the regions of ``results`` up to date."""
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    for result in results:
        text = replace_region(text, result.name, markdown(result, machine))
    page.write_text(text)


def write_json(path: Path, results: list[Result], machine: str) -> None:
    """Keep every sample, beside those of cases that did not run this time."""
    document = json.loads(path.read_text()) if path.exists() else {}
    for result in results:
        document[result.name] = asdict(result) | {"machine": machine}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
