"""Questions before something is done, secrets that are shown once, and differences."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from cafs.manager.console.frame import heading
from cafs.manager.console.tables import columns_of, show_table


def ask_first(button: ui.button, question: str, does: Callable[[], Awaitable[None]]) -> None:
    """What the button does is done after a second thought."""
    with ui.dialog() as dialog, ui.card():
        ui.label(question)
        with ui.row().classes("full-width justify-end"):
            ui.button("Cancel", on_click=dialog.close).props("flat no-caps")

            async def sure() -> None:
                dialog.close()
                await does()

            ui.button("Yes", on_click=sure).props("no-caps color=negative")
    button.on_click(dialog.open)


def show_once(title: str, secret: str) -> None:
    """A secret that nobody will be shown again."""
    with ui.dialog(value=True).props("persistent") as dialog, ui.card().classes("full-width"):
        heading(title, 2)
        ui.label("It is shown this once: keep it now.").classes("cafs-quiet")
        ui.input(value=secret).props('readonly outlined aria-label="The secret" data-secret').classes(
            "full-width"
        )
        with ui.row().classes("full-width justify-end"):
            ui.button("Copy", icon="content_copy", on_click=lambda: ui.clipboard.write(secret)).props(
                "flat no-caps"
            )
            ui.button("Done", on_click=dialog.close).props("no-caps")


def show_difference(changes: Mapping[str, Mapping[str, Any]], before: str, after: str) -> None:
    """Of each path what was and what is; ``before`` and ``after`` name the fields, and head the columns."""
    rows = [
        {"id": path, "path": path, "before": said(change[before]), "after": said(change[after])}
        for path, change in changes.items()
    ]
    heads = {"path": "Field", "before": before.capitalize(), "after": after.capitalize()}
    table = show_table(columns_of(heads), rows)
    for name, colour in (("before", "gone"), ("after", "added")):
        table.add_slot(
            f"body-cell-{name}",
            f'<q-td :props="props" class="cafs-value cafs-{colour}">{{{{ props.value }}}}</q-td>',
        )


def said(value: Any) -> str:
    """A value of a document; None: it does not say. Pure."""
    return "not said" if value is None else json.dumps(value, ensure_ascii=False)
