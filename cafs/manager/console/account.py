"""One's own account: tokens, password."""

from __future__ import annotations

from nicegui import ui

from cafs.manager.console.dialogs import show_once
from cafs.manager.console.frame import Page, Seen, heading
from cafs.manager.console.tokens import show_tokens
from cafs.manager.users.passwords import LEAST
from cafs.manager.users.roles import Scope

_MOST_DAYS = 366


async def _build(seen: Seen) -> None:
    heading(seen.me["name"])
    heading("Tokens for programs", 2)
    fill = await show_tokens(seen, "/me/tokens")
    with ui.card().props("flat bordered").classes("full-width"):
        ui.label("New token").classes("text-subtitle1")
        name = ui.input("What it is for").classes("full-width")
        scopes = ui.select([scope.value for scope in Scope], value=[], multiple=True, label="Scopes")
        scopes.classes("full-width").props("use-chips")
        days = ui.number("Days it holds", value=90, min=1, max=_MOST_DAYS, precision=0).classes("full-width")

        async def make() -> None:
            body = {"name": name.value, "scopes": scopes.value, "days": int(days.value or 0)}
            made = (await seen.rest.ask("POST", "/me/tokens", body)).document
            name.value = ""
            await fill()
            show_once(f"The token {made['name']}", made["token"])

        ui.button("Make", on_click=seen.does(make)).props("no-caps")
    _show_password(seen)


def _show_password(seen: Seen) -> None:
    with ui.card().props("flat bordered").classes("full-width"):
        ui.label("Another password").classes("text-subtitle1")
        current = ui.input("Current password", password=True).props("autocomplete=current-password")
        new = ui.input(f"New password, {LEAST} characters or more", password=True)
        new.props("autocomplete=new-password")
        for one in (current, new):
            one.classes("full-width")

        async def change() -> None:
            body = {"current": current.value, "new": new.value}
            await seen.rest.ask("PUT", "/me/password", body)
            current.value = new.value = ""
            ui.notify("It is changed; all other sessions of yours are over.", type="positive")

        ui.button("Change", on_click=seen.does(change)).props("no-caps")


PAGES = (Page("/account", "Your account", _build),)
