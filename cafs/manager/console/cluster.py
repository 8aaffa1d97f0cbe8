"""One cluster: what it is, whom it wants; and the tabs of all pages that are about one."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import ask_first, show_difference
from cafs.manager.console.frame import Page, Seen, go, heading, link
from cafs.manager.console.rest import RefusedError
from cafs.manager.http.paths import CONSOLE

_SCOPES = {
    "cidrs": "Networks (CIDR)",
    "hostnames": "Host names (patterns: * ? [abc])",
    "idcs": "IDCs",
    "locations": "Locations (region|zone|rack)",
}
_CONFLICT = "conflict"


async def cluster_of(seen: Seen, tab: str) -> tuple[dict[str, Any], str]:
    """The cluster that the address names, and its ETag; shows its name and the tabs.

    Raises:
        RefusedError: REST says no.
    """
    path = f"/clusters/{seen.part('cluster_id')}"
    answer = await seen.rest.ask("GET", path)
    cluster: dict[str, Any] = answer.document
    heading(f"{cluster['name']} · {cluster['kind']} cluster")
    tabs = [("", "Cluster"), ("/configuration", "Configuration"), ("/versions", "Versions")]
    if cluster["kind"] == "scheduler":
        tabs.append(("/tasks", "Tasks"))
    if seen.may("admin", cluster["id"]):
        tabs.append(("/members", "Members"))
    with ui.element("q-tabs").props('align=left no-caps inline-label aria-label="Of this cluster"'):
        for end, label in tabs:
            way = ui.element("q-route-tab").props(f'href="{CONSOLE}{path}{end}" label="{label}"')
            if label == tab:
                way.props("aria-current=page").classes("text-primary text-bold")
    return cluster, answer.etag


async def _build(seen: Seen) -> None:
    cluster, etag = await cluster_of(seen, "Cluster")
    held = {"etag": etag}
    may = seen.may("admin")
    with ui.element("div").classes("cafs-tiles"):
        for active, count in ((True, cluster["active_hosts"]), (False, cluster["inactive_hosts"])):
            with ui.card().props("flat bordered"):
                ui.label(f"{count:,}").classes("text-h4")
                query = f"cluster_id={cluster['id']}&active={str(active).lower()}"
                link("active hosts" if active else "inactive hosts", f"{CONSOLE}/hosts?{query}")
    link("Its statistics", f"{CONSOLE}/statistics?cluster_id={cluster['id']}")
    name = ui.input("Name", value=cluster["name"]).classes("full-width")
    description = ui.textarea("Description", value=cluster["description"]).classes("full-width")
    description.props("autogrow")
    is_default = ui.switch("Takes hosts that no other cluster wants (default)", value=cluster["is_default"])
    ui.label("Whom it wants, one a line").classes("text-subtitle1")
    with ui.element("div").classes("cafs-grid"):
        lists = {
            field: ui.textarea(label, value="\n".join(cluster["scopes"][field])).props("outlined autogrow")
            for field, label in _SCOPES.items()
        }
    if not may:
        for element in (name, description, is_default, *lists.values()):
            element.disable()
        return
    conflict = ui.column().classes("full-width")

    async def save() -> None:
        changes = {
            "name": name.value,
            "description": description.value,
            "is_default": is_default.value,
            "scopes": {field: _lines(area.value) for field, area in lists.items()},
        }
        conflict.clear()
        try:
            path = f"/clusters/{cluster['id']}"
            held["etag"] = (await seen.rest.ask("PATCH", path, changes, etag=held["etag"])).etag
        except RefusedError as e:
            if e.kind != _CONFLICT:
                raise
            held["etag"] = e.etag
            with conflict:
                ui.label("Somebody changed it meanwhile. Save again to have it as you say.").classes(
                    "cafs-gone"
                )
                show_difference(e.differs, "is", "sent")
            return
        ui.notify("Saved.", type="positive")

    async def remove() -> None:
        await seen.rest.ask("DELETE", f"/clusters/{cluster['id']}", etag=held["etag"])
        go(f"{CONSOLE}/clusters")

    with ui.row():
        ui.button("Save", icon="save", on_click=seen.does(save)).props("no-caps")
        button = ui.button("Delete", icon="delete").props("outline no-caps color=negative")
        ask_first(
            button, "Delete this cluster with its configuration? Its hosts find others.", seen.does(remove)
        )


def _lines(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


PAGES = (Page("/clusters/{cluster_id:int}", "Cluster", _build),)
