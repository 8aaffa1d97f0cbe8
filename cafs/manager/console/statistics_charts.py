"""Charts of what REST's statistics say. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SOURCES = {"origin_bytes": ("from the origin", "#c62828"), "seed_bytes": ("from seeds", "#1565c0"),
           "peer_bytes": ("from peers", "#2e7d32"), "local_bytes": ("already here", "#9e9e9e")}  # fmt: skip
_FIRST_BYTES = {"first_byte_p50_ms": "half", "first_byte_p90_ms": "90%", "first_byte_p99_ms": "99%"}
_RATIO = "hit_ratio"
_DOWNLOADS = {"downloads_succeeded": ("succeeded", "#2e7d32"), "downloads_failed": ("failed", "#c62828")}
_FAILURES = {
    "downloads_failed": "downloads",
    "pieces_failed": "pieces",
    "pieces_wrong": "of these, wrong ones",
    "chunks_not_brought": "chunks not brought",
    "requests_failed": "requests",
}
_STORE = {
    "store_bytes": ("chunks", "#1565c0", "solid"),
    "store_quota_bytes": ("quota of chunks", "#1565c0", "dashed"),
    "task_bytes": ("tasks", "#ef6c00", "solid"),
    "task_quota_bytes": ("quota of tasks", "#ef6c00", "dashed"),
}
_GREY = {"color": "#888"}
_FEW = 30
Series = dict[str, Any]
"""As REST told it."""


def traffic_chart(series: Series) -> dict[str, Any]:
    """Stacked areas of MB/s."""
    factor = 1 / series["step_s"] / 1e6
    lines = [
        {**_line(series, metric, name, factor), "stack": "all", "areaStyle": {}, "color": colour}
        for metric, (name, colour) in SOURCES.items()
    ]
    return _over_time(lines, "MB/s")


def ratio_chart(series: Series) -> dict[str, Any]:
    """A line, of percent."""
    return _over_time([{**_line(series, _RATIO, "hit ratio", 100), "color": "#2e7d32"}], "%")


def first_byte_chart(series: Series) -> dict[str, Any]:
    """How long readers waited: half of them, nine in ten, 99 in a hundred."""
    return _over_time([_line(series, metric, name, 1) for metric, name in _FIRST_BYTES.items()], "ms")


def downloads_chart(series: Series) -> dict[str, Any]:
    """Bars: how many ended in each step, and how."""
    bars = [
        {**_line(series, metric, name, 1), "type": "bar", "stack": "all", "color": colour}
        for metric, (name, colour) in _DOWNLOADS.items()
    ]
    return _over_time(bars, _each(series))


def failures_chart(series: Series) -> dict[str, Any]:
    """Lines: of each step, how much of what failed."""
    lines = [_line(series, metric, name, 1) for metric, name in _FAILURES.items()]
    return _over_time(lines, _each(series))


def store_chart(series: Series) -> dict[str, Any]:
    """What chunks and tasks take, in GiB, and how much they may; no line for what has no quota."""
    values = series["values"]
    lines = [
        {**_line(series, metric, name, 1 / (1 << 30)), "color": colour, "lineStyle": {"type": kind}}
        for metric, (name, colour, kind) in _STORE.items()
        if kind == "solid" or any(values[metric])
    ]
    return _over_time(lines, "GiB")


@dataclass(frozen=True, slots=True)
class Chart:
    """One of them."""

    title: str
    metrics: tuple[str, ...]
    """That it needs."""
    draw: Callable[[Series], dict[str, Any]]


TRAFFIC = Chart("Traffic", tuple(SOURCES), traffic_chart)
AMOUNTS = (
    TRAFFIC,
    Chart("Not from the origin", (_RATIO,), ratio_chart),
    Chart("Until the first byte", tuple(_FIRST_BYTES), first_byte_chart),
    Chart("Downloads", tuple(_DOWNLOADS), downloads_chart),
    Chart("Failures", tuple(_FAILURES), failures_chart),
)
LEVELS = (Chart("Store use", tuple(_STORE), store_chart),)
"""Of clusters and hosts."""


def _line(series: Series, metric: str, name: str, factor: float) -> dict[str, Any]:
    values = zip(series["begins"], series["values"][metric], strict=True)
    points = [[at, None if value is None else round(value * factor, 3)] for at, value in values]
    few = sum(value is not None for _, value in points) <= _FEW  # which a line alone would not show
    return {"name": name, "type": "line", "showSymbol": few, "symbolSize": 5, "data": points}


def _each(series: Mapping[str, Any]) -> str:
    step_s = series["step_s"]
    for unit, unit_s in (("h", 3600), ("min", 60)):
        if step_s % unit_s == 0:
            return f"in {step_s // unit_s} {unit}"
    return f"in {step_s} s"


def _over_time(lines: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    return {
        "animation": False,
        "tooltip": {"trigger": "axis"},
        "legend": {"bottom": 0, "type": "scroll", "textStyle": _GREY},
        "grid": {"left": 8, "right": 16, "top": 28, "bottom": 32, "containLabel": True},
        "xAxis": {"type": "time", "axisLabel": {**_GREY, "hideOverlap": True}},
        "yAxis": {
            "type": "value", "name": unit, "min": 0, "axisLabel": _GREY,
            "splitLine": {"lineStyle": {"opacity": 0.3}},
            "nameTextStyle": {**_GREY, "align": "left"},
        },
        "series": lines,
    }  # fmt: skip
