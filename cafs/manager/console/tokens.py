"""Personal access tokens, one's own and others'."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import ask_first
from cafs.manager.console.frame import Seen
from cafs.manager.console.tables import moment


async def show_tokens(seen: Seen, path: str) -> Callable[[], Awaitable[None]]:
    """Those at ``path``, each with a button that revokes it; what it returns shows them anew.

    Raises:
        RefusedError: REST says no.
    """
    shown = ui.list().props("bordered separator").classes("full-width")

    async def fill() -> None:
        tokens = await seen.rest.get(path)
        shown.clear()
        with shown:
            if not tokens:
                with ui.item():
                    ui.item_label("None.")
            for token in tokens:
                _show_one(seen, path, token, fill)

    await fill()
    return fill


def _show_one(seen: Seen, path: str, token: dict[str, Any], fill: Callable[[], Awaitable[None]]) -> None:
    async def revoke() -> None:
        await seen.rest.ask("DELETE", f"{path}/{token['id']}")
        await fill()

    with ui.item():
        with ui.item_section():
            ui.item_label(token["name"])
            ui.item_label(f"{', '.join(token['scopes'])} · until {moment(token['expires_at'])}").props(
                "caption"
            )
        with ui.item_section().props("side"):
            button = ui.button(icon="delete").props("flat")
            button.props.update({"aria-label": f"Revoke {token['name']}"})
            ask_first(button, f"Revoke {token['name']}? It holds no more from then on.", seen.does(revoke))
