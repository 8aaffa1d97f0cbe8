"""Who changed what."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import said
from cafs.manager.console.frame import Page, Seen, heading
from cafs.manager.console.tables import columns_of, moment, show_table

_AT_ONCE = 100
_COLUMNS = {
    "at": "When",
    "who": "Who",
    "by": "By",
    "address": "From",
    "action": "What",
    "thing": "Of",
    "change": "Change",
}


async def _build(seen: Seen) -> None:
    heading("Audit")
    table = show_table(columns_of(_COLUMNS), [])
    table.props("wrap-cells")
    held: dict[str, Any] = {"before": None}

    async def more() -> None:
        page = await seen.rest.get("/audit", before=held["before"], limit=_AT_ONCE)
        table.rows = [*table.rows, *map(_row, page["items"])]
        held["before"] = page["next"]
        older.set_visibility(page["next"] is not None)

    older = ui.button("Older ones", on_click=seen.does(more)).props("outline no-caps")
    await more()


def _row(change: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: change[name] for name in ("id", "who", "by", "address", "action", "thing")},
        "at": moment(change["at"]),
        "change": change_text(change["before"], change["after"]),
    }


def change_text(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
    """What became what, of the fields that did. Pure."""
    was, now = before or {}, after or {}
    names = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    return "; ".join(f"{name}: {said(was.get(name))} → {said(now.get(name))}" for name in names)


PAGES = (Page("/audit", "Audit", _build),)
