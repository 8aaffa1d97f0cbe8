"""Statistics: of all clusters, of one, of an application or a task; and who has the most of something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from cafs.manager.console.frame import Page, Seen, go, heading, link
from cafs.manager.console.statistics_of import HOURS, Whose, ago, show_statistics
from cafs.manager.console.statistics_top import Tops
from cafs.manager.http.paths import CONSOLE

_WHOSE = ("cluster_id", "application", "task_id")
_HERE = f"{CONSOLE}/statistics"


async def _build(seen: Seen) -> None:
    query = {name: value for name in _WHOSE if (value := seen.request.query_params.get(name))}
    clusters = {str(cluster["id"]): cluster for cluster in await seen.rest.get("/clusters")}
    if query.get("cluster_id") not in clusters:
        query.pop("cluster_id", None)  # it is gone
    whose = Whose(query)
    heading("Statistics")
    if not whose.has_levels:
        await _show_title(seen, whose, clusters)
    choices = {"": "All clusters"}
    choices |= {number: f"{cluster['name']} · {cluster['kind']}" for number, cluster in clusters.items()}
    chosen = query.get("cluster_id", "")
    cluster = ui.select(choices, value=chosen, label="Cluster")
    cluster.props("outlined dense options-dense").style("min-width: 240px; align-self: flex-start")
    place = ui.element("div").classes("cafs-form")
    also = None
    if whose.has_levels:
        schedulers = [number for number in clusters if clusters[number]["kind"] == "scheduler"]
        tops = Tops(seen, chosen, schedulers)
        also = tops.fill
    with place:
        window = show_statistics(seen, whose, also)

    def move() -> None:
        asked = {**query, "cluster_id": cluster.value, HOURS: window.value}
        go(f"{_HERE}?{urlencode({name: value for name, value in asked.items() if value})}")

    cluster.on_value_change(move)


async def _show_title(seen: Seen, whose: Whose, clusters: Mapping[str, Any]) -> None:
    query = whose.query
    if whose.is_of("application"):
        heading(f"Application {query['application']}", 2).classes("cafs-value")
    else:
        heading(f"Task {query['task_id']}", 2).classes("cafs-value")
        totals = await seen.rest.get("/statistics/totals", **query, **{"from": ago(max(whose.hours))})
        for number in map(str, totals["clusters"]):
            if number in clusters and clusters[number]["kind"] == "scheduler":
                name = clusters[number]["name"]
                link(f"Its swarm in {name}", f"{CONSOLE}/clusters/{number}/tasks/{query['task_id']}")
    link("Statistics of everything", _HERE)


PAGES = (Page("/statistics", "Statistics", _build),)
