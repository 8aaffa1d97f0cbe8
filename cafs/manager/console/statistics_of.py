"""The statistics of one thing, or of all: charts over a time that is chosen, and what it came to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from nicegui import ui

from cafs.manager.console.frame import Seen
from cafs.manager.console.statistics_charts import AMOUNTS, LEVELS, TRAFFIC, Chart

_DAY, _WEEK, _QUARTER, _YEAR = 24, 24 * 7, 24 * 90, 24 * 365
_NAMES = {1: "Hour", _DAY: "Day", _WEEK: "Week", _QUARTER: "90 days", _YEAR: "Year"}
_AGAIN_S = {1: 10.0, _DAY: 60.0}
"""How often it is looked at anew; others: seldom, for little changes."""
_SELDOM_S = 600.0
_STEP, _DIGITS = 1000, 7
HOURS = "hours"
"""The parameter of an address that says how long a time is shown."""
_TILES = {
    "hit_ratio": "not from the origin",
    "origin_bytes": "from the origin",
    "swarm_bytes": "from seeds and peers",
    "upload_bytes": "sent to other hosts",
    "downloads": "downloads / failed",
    "pieces": "pieces / failed / wrong",
    "chunks": "chunks brought / not brought",
    "first_byte": "until the first byte: half / 99%",
    "requests": "requests of proxies / failed",
}
_NOT_OF_CONTENTS = ("upload_bytes", "chunks", "requests")
"""Counted of hosts, and not by what it was for."""


@dataclass(frozen=True, slots=True)
class Whose:
    """Of what."""

    query: dict[str, Any] = field(default_factory=dict)
    """Of REST: ``cluster_id``, and one of ``host_id``, ``application`` and ``task_id``; empty: of all."""

    @property
    def hours(self) -> dict[int, str]:
        """The times that can be chosen: as long as it is kept."""
        kept = _YEAR
        if "application" in self.query:
            kept = _QUARTER
        elif self.is_of("host_id") or self.is_of("task_id"):
            kept = _WEEK
        usual = [hours for hours in (1, _DAY, _WEEK, _YEAR) if hours < kept]
        return {hours: _NAMES[hours] for hours in (*usual, kept)}

    def nearest(self, asked: str) -> int:
        """What can be chosen and is not longer than what an address asks for."""
        wanted = int(asked) if asked.isdecimal() and len(asked) < _DIGITS else 1
        return max((hours for hours in self.hours if hours <= wanted), default=1)

    @property
    def has_levels(self) -> bool:
        """Something is known of its stores."""
        return not (self.is_of("application") or self.is_of("task_id"))

    def is_of(self, what: str) -> bool:
        """It is of one of these."""
        return what in self.query


Also = Callable[[int], Awaitable[None]]


async def read_traffic(seen: Seen) -> dict[str, Any]:
    """Options of a chart of the last hour.

    Raises:
        RefusedError: REST says no.
    """
    return TRAFFIC.draw(await seen.rest.get("/statistics/series", metric=list(TRAFFIC.metrics)))


def show_statistics(seen: Seen, whose: Whose, also: Also | None = None) -> ui.toggle:
    """A part of a page, filled when that is there, for it may take a moment.

    Args:
        seen: The page.
        whose: Statistics of what.
        also: Called with the hours that are chosen, whenever this looks anew.

    Returns:
        By which the hours are chosen.
    """
    chosen = whose.nearest(seen.request.query_params.get(HOURS, ""))
    window = ui.toggle(whose.hours, value=chosen).props("no-caps").style("align-self: flex-start")
    with ui.element("div").classes("cafs-tiles"):
        tiles = {
            name: _tile(name, title)
            for name, title in _TILES.items()
            if whose.has_levels or name not in _NOT_OF_CONTENTS
        }
    with ui.element("div").classes("cafs-grid"):
        drawn = {chart: _place(chart) for chart in (*AMOUNTS, *(LEVELS if whose.has_levels else ()))}

    async def fill() -> None:
        hours = int(window.value or 1)
        found, totals = await _look(seen, whose, hours)
        if hours != window.value:
            return  # another time was chosen meanwhile, and is looked at already
        for chart, series in found.items():
            options = chart.draw(series)
            if drawn[chart].options.get("series") != options["series"]:
                drawn[chart].options.update(options)
                drawn[chart].update()
        texts = tile_texts(totals["values"])
        for name, tile in tiles.items():
            tile.text = texts[name]
        timer.interval = _AGAIN_S.get(hours, _SELDOM_S)
        if also is not None:
            await also(hours)

    timer = ui.timer(_AGAIN_S[1], seen.does(fill))
    window.on_value_change(seen.does(fill))
    return window


async def _look(seen: Seen, whose: Whose, hours: int) -> tuple[dict[Chart, Any], dict[str, Any]]:
    query = {**whose.query, "from": ago(hours)}

    async def series_of(charts: tuple[Chart, ...]) -> dict[Chart, Any]:
        metrics = [metric for chart in charts for metric in chart.metrics]
        series = await seen.rest.get("/statistics/series", metric=list(dict.fromkeys(metrics)), **query)
        return dict.fromkeys(charts, series)

    # Levels by themselves: they are looked at less often, and would make the steps of all others longer.
    kinds = (AMOUNTS, LEVELS) if whose.has_levels else (AMOUNTS,)
    totals, *found = await asyncio.gather(
        seen.rest.get("/statistics/totals", **query), *(series_of(kind) for kind in kinds)
    )
    return {chart: series for part in found for chart, series in part.items()}, totals


def ago(hours: int) -> str:
    """As REST wants a time."""
    return (datetime.now(UTC) - timedelta(hours=hours)).isoformat()


def tile_texts(values: dict[str, Any]) -> dict[str, str]:
    """What a time came to, in a few words each. Pure."""

    def counts(*names: str) -> str:
        return " / ".join(f"{values[name] or 0:,.0f}" for name in names)

    def wait(metric: str) -> str:
        return "?" if values[metric] is None else f"{values[metric]:,.0f} ms"

    ratio = values["hit_ratio"]
    return {
        "hit_ratio": "?" if ratio is None else f"{ratio:.1%}",
        "origin_bytes": size_text(values["origin_bytes"]),
        "swarm_bytes": size_text((values["seed_bytes"] or 0) + (values["peer_bytes"] or 0)),
        "upload_bytes": size_text(values["upload_bytes"]),
        "downloads": counts("downloads_succeeded", "downloads_failed"),
        "pieces": counts("pieces_succeeded", "pieces_failed", "pieces_wrong"),
        "chunks": counts("chunks_brought", "chunks_not_brought"),
        "first_byte": f"{wait('first_byte_p50_ms')} / {wait('first_byte_p99_ms')}",
        "requests": counts("requests", "requests_failed"),
    }


def size_text(size_bytes: float | None) -> str:
    """For people: ``"1.5 GB"``. Pure."""
    size, unit = float(size_bytes or 0), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < _STEP:
            break
        size, unit = size / _STEP, larger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _tile(name: str, title: str) -> ui.label:
    with ui.card().props("flat bordered").classes("full-width"):
        label = ui.label("?").classes("text-h6").props(f"data-total={name}")
        ui.label(title).classes("cafs-quiet")
    return label


def _place(chart: Chart) -> ui.echart:
    with ui.card().props("flat bordered").classes("full-width"):
        ui.label(chart.title).classes("text-subtitle1")
        drawn = ui.echart({}).classes("full-width").style("height: 220px")
        drawn.props(f'role=img aria-label="{chart.title}"')
    return drawn
