"""All clusters, and a new one."""

from __future__ import annotations

from nicegui import ui

from cafs.manager.console.frame import Page, Seen, go, heading
from cafs.manager.console.tables import columns_of, show_table
from cafs.manager.http.paths import CONSOLE

_COLUMNS = {
    "name": "Cluster",
    "kind": "Kind",
    "description": "Description",
    "default": "Default",
    "active": "Active hosts",
    "inactive": "Inactive hosts",
    "configuration": "Configuration",
}


async def _build(seen: Seen) -> None:
    rows = [
        {
            "id": cluster["id"],
            "href": f"{CONSOLE}/clusters/{cluster['id']}",
            "name": cluster["name"],
            "kind": cluster["kind"],
            "description": cluster["description"],
            "default": "yes" if cluster["is_default"] else "",
            "active": cluster["active_hosts"],
            "inactive": cluster["inactive_hosts"],
            "configuration": cluster["configuration"],
        }
        for cluster in await seen.rest.get("/clusters")
    ]
    heading("Clusters")
    show_table(columns_of(_COLUMNS, sortable=tuple(_COLUMNS)), rows)
    if not seen.may("admin"):
        return
    with ui.dialog() as dialog, ui.card().classes("full-width"):
        heading("New cluster", 2)
        name = ui.input("Name").classes("full-width")
        kind = ui.select(["scheduler", "seed"], value="scheduler", label="Kind").classes("full-width")

        async def make() -> None:
            made = await seen.rest.ask("POST", "/clusters", {"name": name.value, "kind": kind.value})
            go(f"{CONSOLE}/clusters/{made.document['id']}")

        with ui.row().classes("full-width justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
            ui.button("Make", on_click=seen.does(make)).props("no-caps")
    ui.button("New cluster", icon="add", on_click=dialog.open).props("no-caps")


PAGES = (Page("/clusters", "Clusters", _build),)
