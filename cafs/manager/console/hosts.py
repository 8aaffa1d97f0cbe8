"""Hosts: thousands of them in a table, and one of them."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import ask_first
from cafs.manager.console.frame import Page, Seen, go, heading
from cafs.manager.console.overview import KINDS
from cafs.manager.console.statistics_of import Whose, show_statistics
from cafs.manager.console.tables import PagedTable, Rows, columns_of, moment
from cafs.manager.http.paths import CONSOLE

_COLUMNS = {
    "hostname": "Host",
    "kind": "Kind",
    "address": "Address",
    "cluster_id": "Cluster",
    "active": "State",
    "since": "Since",
    "cafs_version": "CAFS",
    "running": "Configuration",
}
_STATES = {"": "Any state", "true": "Active", "false": "Inactive"}
_AT = {
    "": "Any configuration",
    "current": "At the newest",
    "behind": "Not at the newest",
    "refuses": "Refuse it",
}
_LOOKED_UP_AGAIN_S = 10.0


async def _build_list(seen: Seen) -> None:
    clusters = {cluster["id"]: cluster for cluster in await seen.rest.get("/clusters")}
    counts = await seen.rest.get("/hosts/counts")
    asked = dict(seen.request.query_params)
    wanted: dict[str, Any] = {
        name: asked.get(name, "") for name in ("text", "kind", "active", "cluster_id", "at")
    }
    wanted["cafs_version"] = asked.get("cafs_version", "")

    async def fetch(order: str, descending: bool, skip: int, limit: int) -> tuple[Rows, int]:
        query = query_of(wanted)
        page = await seen.rest.get(
            "/hosts", **query, order=order, descending=descending, skip=skip, limit=limit
        )
        total = sum(count["hosts"] for count in await seen.rest.get("/hosts/counts", **query))
        return [host_row(host, clusters) for host in page["items"]], total

    with ui.element("div").classes("cafs-filters"):
        text = ui.input("Name or address", value=wanted["text"]).props(
            "clearable debounce=300 outlined dense"
        )
        numbers = {
            "": "Any cluster",
            **{str(number): cluster["name"] for number, cluster in clusters.items()},
        }
        versions = sorted({count["cafs_version"] for count in counts if count["cafs_version"]})
        choices = {
            "kind": {"": "Any kind", **{kind: kind for kind in KINDS}},
            "cluster_id": numbers,
            "active": _STATES,
            "at": _AT,
            "cafs_version": {"": "Any version", **{version: version for version in versions}},
        }
        selects = {name: _select(name, options, wanted) for name, options in choices.items()}
    table = PagedTable(seen, columns_of(_COLUMNS, sortable=tuple(_COLUMNS)), fetch, "hostname")

    async def look() -> None:
        wanted["text"] = text.value or ""
        wanted.update({name: select.value for name, select in selects.items()})
        await table.first()

    text.on_value_change(seen.does(look))
    for select in selects.values():
        select.on_value_change(seen.does(look))
    await table.load()
    ui.timer(_LOOKED_UP_AGAIN_S, seen.does(table.load), immediate=False)


def _select(name: str, options: dict[str, str], wanted: dict[str, Any]) -> ui.select:
    value = wanted[name] if wanted[name] in options else ""
    wanted[name] = value
    select = ui.select(options, value=value, label=_COLUMNS.get(name, "Configuration"))
    return select.props("outlined dense options-dense")


def query_of(wanted: dict[str, Any]) -> dict[str, Any]:
    """As REST wants it. Pure."""
    query = {name: wanted[name] or None for name in ("text", "kind", "active", "cluster_id", "cafs_version")}
    query["current"] = {"current": "true", "behind": "false"}.get(wanted["at"])
    query["refuses"] = "true" if wanted["at"] == "refuses" else None
    return query


def host_row(host: dict[str, Any], clusters: dict[int, Any]) -> dict[str, Any]:
    """A line of the table. Pure."""
    cluster = clusters.get(host["cluster_id"])
    newest = cluster["configuration"] if cluster else None
    running = "not said" if host["running"] is None else str(host["running"])
    if host["refused"]:
        running += ", refuses a newer one"
    elif host["running"] != newest and newest is not None:
        running += f" of {newest}"
    return {
        "id": host["id"],
        "href": f"{CONSOLE}/hosts/{host['id']}",
        "hostname": host["hostname"] or host["id"][:8],
        "kind": host["kind"],
        "address": host["address"],
        "cluster_id": cluster["name"] if cluster else "(none)",
        "active": "active" if host["active"] else "inactive",
        "since": moment(host["since"]),
        "cafs_version": host["cafs_version"],
        "running": running,
    }


async def _build_one(seen: Seen) -> None:
    path = f"/hosts/{seen.part('host_id')}"
    host = await seen.rest.get(path)
    heading(host["hostname"] or host["id"])
    with ui.card().props("flat bordered").classes("full-width"):
        shown = {name: _line(title) for name, title in _FIELDS.items()}

    async def fill() -> None:
        host = await seen.rest.get(path)
        clusters = {cluster["id"]: cluster for cluster in await seen.rest.get("/clusters")}
        told = {**host, **host_row(host, clusters), "refused": host["refused"] or "none"}
        told["first_seen_at"] = moment(host["first_seen_at"])
        for name, label in shown.items():
            label.text = str(told[name])

    async def forget() -> None:
        await seen.rest.ask("DELETE", path)
        go(f"{CONSOLE}/hosts")

    await fill()
    ui.timer(2.0, seen.does(fill), immediate=False)
    if seen.may("operator", host["cluster_id"]):
        button = ui.button("Forget this host", icon="delete").props("outline no-caps color=negative")
        ask_first(
            button,
            "Forget this host? Only one that is inactive can be; it may come again.",
            seen.does(forget),
        )
    heading("Statistics", 2)
    show_statistics(seen, Whose({"host_id": host["id"]}))


_FIELDS = {
    "id": "Id",
    "kind": "Kind",
    "address": "Address",
    "cluster_id": "Cluster",
    "active": "State",
    "since": "Since",
    "first_seen_at": "First seen",
    "cafs_version": "CAFS",
    "idc": "IDC",
    "location": "Location",
    "running": "Configuration it runs",
    "refused": "Why it refuses a newer one",
}


def _line(title: str) -> ui.label:
    with ui.element("div").classes("cafs-line"):
        ui.label(title).classes("cafs-quiet")
        return ui.label("").classes("cafs-value").props(f'data-field="{title}"')


PAGES = (Page("/hosts", "Hosts", _build_list), Page("/hosts/{host_id}", "Host", _build_one))
