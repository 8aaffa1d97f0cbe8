"""What the clusters do, at a glance; looked at again every few seconds."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from nicegui import ui

from cafs.manager.console.frame import Page, Seen, heading
from cafs.manager.console.statistics_of import read_traffic
from cafs.manager.console.tables import columns_of, show_table
from cafs.manager.http.paths import CONSOLE

_AGAIN_S = 5.0
KINDS = ("scheduler", "seed", "peer", "proxy")
_COLOURS = {"active": "#2e7d32", "refusing": "#c62828", "inactive": "#9e9e9e"}
_GREY = {"color": "#888"}
"""Read on light and on dark."""
_CLUSTERS = {
    "name": "Cluster",
    "kind": "Kind",
    "active": "Active",
    "inactive": "Inactive",
    "configuration": "Configuration",
    "behind": "Not at it",
    "refusing": "Refuse it",
}


async def _build(seen: Seen) -> None:
    clusters, counts, traffic = await _look(seen)
    with ui.element("div").classes("cafs-tiles"):
        tiles = {name: _tile(name) for name in ("active", "inactive", "behind", "refusing")}
    flow = _chart("Traffic of the last hour", traffic)
    with ui.element("div").classes("cafs-grid"):
        kinds = _chart("Hosts by kind", kinds_chart(counts))
        versions = _chart("Versions of CAFS on active hosts", versions_chart(counts))
    heading("Clusters", 2)
    table = show_table(columns_of(_CLUSTERS, sortable=tuple(_CLUSTERS)), [])

    def fill(clusters: list[Any], counts: list[Any], traffic: dict[str, Any]) -> None:
        rows = cluster_rows(clusters, counts)
        for name, label in tiles.items():
            label.text = f"{sum(row[name] for row in rows):,}"
        if table.rows != rows:
            table.rows = rows
        drawn = ((kinds, kinds_chart(counts)), (versions, versions_chart(counts)), (flow, traffic))
        for chart, options in drawn:
            if chart.options["series"] != options["series"]:
                chart.options.update(options)
                chart.update()

    async def again() -> None:
        fill(*await _look(seen))

    fill(clusters, counts, traffic)
    ui.timer(_AGAIN_S, seen.does(again), immediate=False)


async def _look(seen: Seen) -> tuple[list[Any], list[Any], dict[str, Any]]:
    asked = seen.rest.get("/clusters"), seen.rest.get("/hosts/counts"), read_traffic(seen)
    clusters, counts, traffic = await asyncio.gather(*asked)
    return clusters, counts, traffic


def _tile(name: str) -> ui.label:
    titles = {
        "active": "active hosts",
        "inactive": "inactive hosts",
        "behind": "active, not at their configuration",
        "refusing": "refuse their configuration",
    }
    with ui.card().props("flat bordered").classes("full-width"):
        number = ui.label("0").classes("text-h4").props(f"data-tile={name}")
        ui.label(titles[name]).classes("cafs-quiet")
    return number


def _chart(title: str, options: dict[str, Any]) -> ui.echart:
    with ui.card().props("flat bordered").classes("full-width"):
        ui.label(title).classes("text-subtitle1")
        chart = ui.echart(options).classes("full-width").style("height: 220px")
        chart.props(f'role=img aria-label="{title}"')
    return chart


def cluster_rows(clusters: list[Any], counts: list[Any]) -> list[dict[str, Any]]:
    """A line for each cluster, and one for hosts that have none. Pure."""
    lines = [*clusters]
    if any(count["cluster_id"] is None for count in counts):
        lines.append({"id": None, "name": "(none)", "kind": "", "configuration": 0})
    found = []
    for cluster in lines:
        number, version = cluster["id"], cluster["configuration"]
        mine = [count for count in counts if count["cluster_id"] == number]
        active = [count for count in mine if count["active"]]
        found.append(
            {
                "id": number or 0,
                "href": f"{CONSOLE}/clusters/{number}" if number else "",
                "name": cluster["name"],
                "kind": cluster["kind"],
                "active": _sum(active),
                "inactive": _sum(mine) - _sum(active),
                "configuration": version,
                "behind": _sum([count for count in active if number and count["running"] != version]),
                "refusing": _sum([count for count in active if count["refuses"]]),
            }
        )
    return found


def _sum(counts: list[Any]) -> int:
    return sum(count["hosts"] for count in counts)


def kinds_chart(counts: list[Any]) -> dict[str, Any]:
    """Bars: of each kind how many are active, refuse their configuration, are inactive. Pure."""
    found: Counter[tuple[str, str]] = Counter()
    for count in counts:
        state = "inactive" if not count["active"] else "refusing" if count["refuses"] else "active"
        found[count["kind"], state] += count["hosts"]
    series = [
        {"name": state, "type": "bar", "stack": "all", "color": colour,
         "data": [found[kind, state] for kind in KINDS]}
        for state, colour in _COLOURS.items()
    ]  # fmt: skip
    return {
        "animation": False,
        "tooltip": {"trigger": "axis"},
        "legend": {"bottom": 0, "textStyle": _GREY},
        "grid": {"left": 8, "right": 16, "top": 8, "bottom": 32, "containLabel": True},
        "xAxis": {
            "type": "value",
            "minInterval": 1,
            "splitLine": {"lineStyle": {"opacity": 0.3}},
            "axisLabel": _GREY,
        },
        "yAxis": {"type": "category", "data": list(KINDS), "inverse": True, "axisLabel": _GREY},
        "series": series,
    }


def versions_chart(counts: list[Any]) -> dict[str, Any]:
    """A ring: versions of CAFS on active hosts. Pure."""
    found: Counter[str] = Counter()
    for count in counts:
        if count["active"]:
            found[count["cafs_version"] or "(not said)"] += count["hosts"]
    data = [{"name": name, "value": hosts} for name, hosts in found.most_common(12)]
    return {
        "animation": False,
        "tooltip": {"trigger": "item"},
        "legend": {"orient": "vertical", "left": 0, "top": "middle", "textStyle": _GREY},
        "series": [
            {"type": "pie", "radius": ["45%", "75%"], "center": ["65%", "50%"], "data": data,
             "label": {"show": False}}
        ],
    }  # fmt: skip


PAGES = (Page("/", "Overview", _build),)
