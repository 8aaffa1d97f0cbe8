"""What came from where, over time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from nicegui import ui

from cafs.manager.console.frame import Page, Seen, heading

_AGAIN_S = 10.0
_SOURCES = {"origin_bytes": ("from the origin", "#c62828"), "seed_bytes": ("from seeds", "#1565c0"),
            "peer_bytes": ("from peers", "#2e7d32"), "local_bytes": ("already here", "#9e9e9e")}  # fmt: skip
_FIRST_BYTES = {"first_byte_p50_ms": "half", "first_byte_p90_ms": "90%", "first_byte_p99_ms": "99%"}
_RATIO = "hit_ratio"
_METRICS = [*_SOURCES, *_FIRST_BYTES, _RATIO]
_WINDOWS = {1: "Hour", 24: "Day", 24 * 7: "Week", 24 * 365: "Year"}
"""Hours."""
_GREY = {"color": "#888"}


async def read_traffic(seen: Seen) -> dict[str, Any]:
    """Options of a chart of the last hour.

    Raises:
        RefusedError: REST says no.
    """
    return traffic_chart(await seen.rest.get("/statistics/series", metric=list(_SOURCES)))


async def _build(seen: Seen) -> None:
    heading("Statistics")
    held = {"hours": 1}
    window = ui.toggle(_WINDOWS, value=1).props("no-caps").style("align-self: flex-start")
    charts = {}
    for title in ("Traffic", "Not from the origin", "Until the first byte"):
        heading(title, 2)
        charts[title] = ui.echart({}).classes("full-width").style("height: 260px")
        charts[title].props(f'role=img aria-label="{title}"')

    async def fill() -> None:
        begin = datetime.now(UTC) - timedelta(hours=held["hours"])
        series = await seen.rest.get("/statistics/series", metric=_METRICS, **{"from": begin.isoformat()})
        made = (traffic_chart(series), ratio_chart(series), first_byte_chart(series))
        for chart, options in zip(charts.values(), made, strict=True):
            chart.options.update(options)
            chart.update()

    async def look() -> None:
        held["hours"] = int(window.value or 1)
        await fill()

    await fill()
    window.on_value_change(seen.does(look))
    ui.timer(_AGAIN_S, seen.does(fill), immediate=False)


def traffic_chart(series: dict[str, Any]) -> dict[str, Any]:
    """Stacked areas of MB/s. Pure."""
    step_s = series["step_s"]
    lines = [
        {
            "name": name,
            "type": "line",
            "stack": "all",
            "areaStyle": {},
            "showSymbol": False,
            "color": colour,
            "data": _points(series, metric, 1 / step_s / 1e6),
        }
        for metric, (name, colour) in _SOURCES.items()
    ]
    return _over_time(lines, "MB/s")


def ratio_chart(series: dict[str, Any]) -> dict[str, Any]:
    """A line, of percent. Pure."""
    points = _points(series, _RATIO, 100)
    line = {"name": "hit ratio", "type": "line", "showSymbol": False, "color": "#2e7d32", "data": points}
    return _over_time([line], "%")


def first_byte_chart(series: dict[str, Any]) -> dict[str, Any]:
    """How long readers waited: of half of them, of nine in ten, of 99 in a hundred. Pure."""
    lines = [
        {"name": name, "type": "line", "showSymbol": False, "data": _points(series, metric, 1)}
        for metric, name in _FIRST_BYTES.items()
    ]
    return _over_time(lines, "ms")


def _points(series: dict[str, Any], metric: str, factor: float) -> list[list[Any]]:
    values = zip(series["begins"], series["values"][metric], strict=True)
    return [[at, None if value is None else round(value * factor, 3)] for at, value in values]


def _over_time(lines: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    return {
        "animation": False,
        "tooltip": {"trigger": "axis"},
        "legend": {"bottom": 0, "textStyle": _GREY},
        "grid": {"left": 8, "right": 16, "top": 28, "bottom": 32, "containLabel": True},
        "xAxis": {"type": "time", "axisLabel": _GREY},
        "yAxis": {"type": "value", "name": unit, "min": 0, "axisLabel": _GREY, "nameTextStyle": _GREY},
        "series": lines,
    }


PAGES = (Page("/statistics", "Statistics", _build),)
