"""Who has which role in one cluster."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.cluster import cluster_of
from cafs.manager.console.dialogs import ask_first
from cafs.manager.console.frame import Page, Seen

ROLES = ("viewer", "operator", "admin")


async def _build(seen: Seen) -> None:
    cluster, _ = await cluster_of(seen, "Members")
    path = f"/clusters/{cluster['id']}/members"
    ui.label("Roles in this cluster, on top of those that somebody has everywhere.").classes("cafs-quiet")
    shown = ui.column().classes("full-width")

    async def fill() -> None:
        members = await seen.rest.get(path)
        shown.clear()
        with shown:
            if not members:
                ui.label("Nobody has one.")
            for member in members:
                _show_one(seen, path, member, fill)

    with ui.row().classes("items-end"):
        name = ui.input("Name")
        role = ui.select(list(ROLES), value="viewer", label="Role")

        async def give() -> None:
            await seen.rest.ask("PUT", f"{path}/{name.value.strip() or '-'}", {"role": role.value})
            name.value = ""
            await fill()

        ui.button("Give", on_click=seen.does(give)).props("no-caps")
    await fill()


def _show_one(seen: Seen, path: str, member: dict[str, Any], fill: Any) -> None:
    async def change() -> None:
        await seen.rest.ask("PUT", f"{path}/{member['name']}", {"role": role.value})

    async def take() -> None:
        await seen.rest.ask("DELETE", f"{path}/{member['name']}")
        await fill()

    with ui.row().classes("items-center full-width"):
        ui.label(member["name"]).classes("col")
        role = ui.select(list(ROLES), value=member["role"], on_change=seen.does(change))
        role.props(f'dense outlined aria-label="Role of {member["name"]}"')
        button = ui.button(icon="delete").props(f'flat aria-label="Take the role of {member["name"]}"')
        ask_first(button, f"Take the role of {member['name']} in this cluster?", seen.does(take))


PAGES = (Page("/clusters/{cluster_id:int}/members", "Members", _build),)
