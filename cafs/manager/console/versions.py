"""All versions of a cluster's configuration, what each changed, and the way back to one."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.cluster import cluster_of
from cafs.manager.console.dialogs import show_difference
from cafs.manager.console.frame import Page, Seen
from cafs.manager.console.tables import moment

_AT_ONCE = 30


async def _build(seen: Seen) -> None:
    cluster, _ = await cluster_of(seen, "Versions")
    listed = _Versions(seen, cluster)
    listed.show()
    await listed.more()


class _Versions:
    """The page of one cluster."""

    def __init__(self, seen: Seen, cluster: dict[str, Any]) -> None:
        self._seen = seen
        self._path = f"/clusters/{cluster['id']}/configuration"
        self._newest = cluster["configuration"]
        self._may = seen.may("operator", cluster["id"])
        self._before: int | None = None

    def show(self) -> None:
        self._list = ui.list().props("bordered separator").classes("full-width")
        self._older = ui.button("Older ones", on_click=self._seen.does(self.more)).props("outline no-caps")

    async def more(self) -> None:
        """Those that are older than what is shown."""
        page = await self._seen.rest.get(f"{self._path}/versions", before=self._before, limit=_AT_ONCE)
        with self._list:
            for version in page["items"]:
                self._show_one(version)
            if page["next"] is None:
                self._show_one({"version": 0, "who": "", "at": "", "note": "Services have their own."})
        self._before = page["next"]
        self._older.set_visibility(page["next"] is not None)

    def _show_one(self, version: dict[str, Any]) -> None:
        number = version["version"]
        head = f"Version {number}" + (" · holds" if number == self._newest else "")
        again = f" (says {version['restored']} again)" if version.get("restored") is not None else ""
        when = f"{version['who']}, {moment(version['at'])}{again}. " if version["at"] else ""
        with ui.expansion(head, caption=when + version["note"]).classes("full-width") as opened:
            inside = ui.column().classes("full-width")

        async def look() -> None:
            if not opened.value or inside.default_slot.children:
                return
            with inside:
                if number:
                    changes = await self._seen.rest.get(f"{self._path}/versions/{number}/changes")
                    ui.label(f"What it changed of version {number - 1}").classes("text-subtitle2")
                    show_difference(changes, "before", "after")
                if number != self._newest:
                    await self._offer(number)

        opened.on_value_change(self._seen.does(look))

    async def _offer(self, number: int) -> None:
        """What going back to it would change, and the button for that."""
        query = {"since": self._newest}
        changes = await self._seen.rest.get(f"{self._path}/versions/{number}/changes", **query)
        ui.label("What going back to it would change").classes("text-subtitle2")
        show_difference(changes, "before", "after")
        if not self._may or not changes:
            return
        note = ui.input("Why (a note, for people)").classes("full-width").props("maxlength=1000")

        async def restore() -> None:
            body = {"version": number, "note": note.value}
            await self._seen.rest.ask("POST", f"{self._path}/restore", body, etag=f'"{self._newest}"')
            ui.navigate.reload()

        ui.button(
            f"Have version {number} hold again", icon="restore", on_click=self._seen.does(restore)
        ).props("no-caps")


PAGES = (Page("/clusters/{cluster_id:int}/versions", "Versions", _build),)
