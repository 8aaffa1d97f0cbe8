"""Accounts, for administrators."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import ask_first, show_once
from cafs.manager.console.frame import Page, Seen, go, heading
from cafs.manager.console.members import ROLES
from cafs.manager.console.tables import columns_of, moment, show_table
from cafs.manager.console.tokens import show_tokens
from cafs.manager.http.paths import CONSOLE

_COLUMNS = {"name": "Name", "role": "Role everywhere", "state": "State", "created_at": "Since"}
_NONE = "none"
_AT_ONCE = 1000


async def _build_list(seen: Seen) -> None:
    rows: list[dict[str, Any]] = []
    after: int | None = 0
    while after is not None:
        page = await seen.rest.get("/users", after=after, limit=_AT_ONCE)
        rows += map(_row, page["items"])
        after = page["next"]
    heading("Users")
    show_table(columns_of(_COLUMNS, sortable=tuple(_COLUMNS)), rows, rows_per_page=50)
    with ui.dialog() as dialog, ui.card().classes("full-width"):
        heading("New user", 2)
        name = ui.input("Name: lower-case letters, digits, . _ @ -").classes("full-width")
        role = ui.select([_NONE, *ROLES], value=_NONE, label="Role everywhere").classes("full-width")

        async def make() -> None:
            body = {"name": name.value, "role": None if role.value == _NONE else role.value}
            made = (await seen.rest.ask("POST", "/users", body)).document
            dialog.close()
            show_once(f"The link for {made['name']}, good for a day", made["link"])

        with ui.row().classes("full-width justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")
            ui.button("Make", on_click=seen.does(make)).props("no-caps")
    ui.button("New user", icon="person_add", on_click=dialog.open).props("no-caps")


def _row(user: dict[str, Any]) -> dict[str, Any]:
    state = "disabled" if user["disabled"] else "active" if user["can_sign_in"] else "invited"
    return {
        "id": user["id"],
        "href": f"{CONSOLE}/users/{user['id']}",
        "name": user["name"],
        "role": user["role"] or _NONE,
        "state": state,
        "created_at": moment(user["created_at"]),
    }


async def _build_one(seen: Seen) -> None:
    path = f"/users/{seen.part('user_id')}"
    answer = await seen.rest.ask("GET", path)
    user, held = answer.document, {"etag": answer.etag}
    heading(user["name"])
    role = ui.select([_NONE, *ROLES], value=user["role"] or _NONE, label="Role everywhere").classes(
        "full-width"
    )
    disabled = ui.switch("Disabled: may not come in", value=user["disabled"])

    async def save() -> None:
        changes = {"role": None if role.value == _NONE else role.value, "disabled": disabled.value}
        held["etag"] = (await seen.rest.ask("PATCH", path, changes, etag=held["etag"])).etag
        ui.notify("Saved.", type="positive")

    async def link() -> None:
        made = (await seen.rest.ask("POST", f"{path}/link")).document
        show_once(f"The link at which {user['name']} chooses a password, good for a day", made["link"])

    async def remove() -> None:
        await seen.rest.ask("DELETE", path, etag=held["etag"])
        go(f"{CONSOLE}/users")

    with ui.row():
        ui.button("Save", icon="save", on_click=seen.does(save)).props("no-caps")
        ui.button("Link for a new password", on_click=seen.does(link)).props("outline no-caps")
        button = ui.button("Delete", icon="delete").props("outline no-caps color=negative")
        ask_first(button, f"Delete {user['name']} with all tokens?", seen.does(remove))
    heading("Tokens", 2)
    await show_tokens(seen, f"{path}/tokens")


PAGES = (Page("/users", "Users", _build_list), Page("/users/{user_id:int}", "User", _build_one))
