"""What a cluster's schedulers distribute."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.cluster import cluster_of
from cafs.manager.console.frame import Page, Seen
from cafs.manager.console.tables import columns_of, show_table
from cafs.manager.http.paths import CONSOLE

_AGAIN_S = 5.0
_AT_ONCE = 1000
_COLUMNS = {
    "what": "Task",
    "state": "State",
    "size": "Size (MiB)",
    "downloading": "Downloading",
    "complete": "Have all",
    "hosts": "Hosts",
    "source": "Copies from the source",
    "swarm": "Copies from hosts",
    "application": "Application",
}


async def _build(seen: Seen) -> None:
    cluster, _ = await cluster_of(seen, "Tasks")
    number = cluster["id"]
    silent = ui.label("").classes("cafs-gone").props("role=alert")
    table = show_table(columns_of(_COLUMNS, sortable=tuple(_COLUMNS)), [], rows_per_page=50)
    table.pagination = {**table.pagination, "sortBy": "downloading", "descending": True}

    async def fill() -> None:
        page = await seen.rest.get(f"/clusters/{number}/tasks", limit=_AT_ONCE)
        rows = [task_row(number, task) for task in page["items"]]
        if rows != table.rows:
            table.rows = rows
        away = ", ".join(f"{address} ({why})" for address, why in page["silent"].items())
        more = f"Only the first {_AT_ONCE:,} are shown. " if page["next"] else ""
        silent.text = more + (f"Schedulers that do not answer: {away}" if away else "")
        silent.set_visibility(bool(silent.text))

    await seen.attempt(fill)
    ui.timer(_AGAIN_S, seen.does(fill), immediate=False)


def task_row(cluster_id: int, task: dict[str, Any]) -> dict[str, Any]:
    """A line of the table. Pure."""
    size, pieces = task["content_bytes"], task["pieces"]
    return {
        "id": task["id"],
        "href": f"{CONSOLE}/clusters/{cluster_id}/tasks/{task['id']}",
        "what": task["url"] or task["digest"] or task["id"][:16],
        "state": task["state"],
        "size": "?" if size is None else round(size / (1 << 20), 1),
        **{name: task[name] for name in ("downloading", "complete", "hosts", "application")},
        "source": round(task["source_pieces"] / pieces, 2) if pieces else "?",
        "swarm": round(task["swarm_pieces"] / pieces, 2) if pieces else "?",
    }


PAGES = (Page("/clusters/{cluster_id:int}/tasks", "Tasks", _build),)
