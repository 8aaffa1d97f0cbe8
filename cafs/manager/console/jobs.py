"""Jobs: how far they are, and one that is to be made."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.frame import Page, Seen, go, heading
from cafs.manager.console.job import build_job
from cafs.manager.console.job_rows import job_row
from cafs.manager.console.tables import columns_of, show_table
from cafs.manager.http.paths import CONSOLE

_AGAIN_S = 2.0
_SHOWN, _AT_ONCE = 100, 1000
_COLUMNS = {
    "id": "Job",
    "what": "What",
    "cluster": "Cluster",
    "state": "State",
    "hosts": "Hosts done",
    "share": "Bytes",
    "who": "By",
    "created_at": "Made",
}
_KINDS = {
    "preheat_image": "An image, on hosts before it starts",
    "preheat_file": "A file, on hosts before it is read",
    "convert": "An image, converted",
    "sync": "What hosts hold",
    "gc": "Garbage collection",
}
_NEEDS = {"preheat_image": "Image: HOST/REPOSITORY:TAG", "preheat_file": "Address: https://…",
          "convert": "Image: HOST/REPOSITORY:TAG"}  # fmt: skip


async def _build(seen: Seen) -> None:
    clusters = {cluster["id"]: cluster["name"] for cluster in await seen.rest.get("/clusters")}
    heading("Jobs")
    table = show_table(columns_of(_COLUMNS), [], rows_per_page=50)
    mine = {number: name for number, name in clusters.items() if seen.may("operator", number)}
    if mine:
        _offer(seen, mine)

    wanted = {"rows": _SHOWN}

    async def fill() -> None:
        jobs, are_more = await _newest(seen, wanted["rows"])
        rows = [job_row(job, clusters) for job in jobs]
        if table.rows != rows:
            table.rows = rows
        older.set_visibility(are_more)

    async def more() -> None:
        wanted["rows"] += _AT_ONCE
        await fill()

    older = ui.button("Older ones", on_click=seen.does(more)).props("outline no-caps")
    await fill()
    ui.timer(_AGAIN_S, seen.does(fill), immediate=False)


async def _newest(seen: Seen, count: int) -> tuple[list[dict[str, Any]], bool]:
    """So many jobs, and whether there are older ones."""
    found: list[dict[str, Any]] = []
    before: int | None = None
    while True:
        limit = min(_AT_ONCE, count - len(found))
        page = await seen.rest.get("/jobs", before=before, limit=limit)
        found += page["items"]
        before = page["next"]
        if before is None or len(found) >= count:
            return found, before is not None


def _offer(seen: Seen, clusters: dict[int, str]) -> None:
    with ui.dialog() as dialog, ui.card().classes("full-width"):
        heading("New job", 2)
        kind = ui.select(_KINDS, value="preheat_image", label="What").classes("full-width")
        thing = ui.input(_NEEDS["preheat_image"]).classes("full-width")
        cluster = ui.select(clusters, value=next(iter(clusters)), label="Cluster").classes("full-width")
        share = ui.number("Percent of its hosts", value=100, min=1, max=100, precision=0)
        share.classes("full-width")

        def fit() -> None:
            needed = _NEEDS.get(str(kind.value))
            thing.set_visibility(needed is not None)
            thing.props.update({"label": needed or ""})
            thing.update()
            share.set_visibility(kind.value != "convert")

        kind.on_value_change(fit)

        async def make() -> None:
            wanted = new_job(str(kind.value), thing.value.strip(), int(cluster.value or 0), share.value)
            made = await seen.rest.ask("POST", "/jobs", wanted)
            go(f"{CONSOLE}/jobs/{made.document['id']}")

        with ui.row().classes("full-width justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
            ui.button("Make", on_click=seen.does(make)).props("no-caps")
    ui.button("New job", icon="add", on_click=dialog.open).props("no-caps")


def new_job(kind: str, thing: str, cluster_id: int, percent: float | None) -> dict[str, Any]:
    """As REST wants it, which checks it. Pure."""
    spec = {"preheat_file": {"url": thing}, "preheat_image": {"image": thing}, "convert": {"image": thing}}
    share = int(percent or 0)
    scope = {"hosts": "all"} if share == 100 else {"hosts": "percent", "percent": share}
    job: dict[str, Any] = {"kind": kind, "cluster_id": cluster_id, "spec": spec.get(kind, {})}
    return job if kind == "convert" else {**job, "scope": scope}


PAGES = (Page("/jobs", "Jobs", _build), Page("/jobs/{job_id}", "Job", build_job))
