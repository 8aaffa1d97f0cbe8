"""Quasar's table, as the console uses it: cards on a phone, links in the first column, pages from REST."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from cafs.manager.console.frame import Seen

Rows = list[dict[str, Any]]
_LINKED = """
<q-td :props="props"><a v-if="props.row.href" :href="props.row.href">{{ props.value }}</a>
<template v-else>{{ props.value }}</template></q-td>
"""
_HEAD = """
<q-th :props="props">
<button v-if="props.col.sortable" type="button" class="cafs-sort">{{ props.col.label }}</button>
<template v-else>{{ props.col.label }}</template></q-th>
"""
"""What a click on a head does is Quasar's; a button in it has the same done by a key."""
_CARD = """
<div class="col-12 q-pa-xs"><q-card flat bordered><q-list dense>
<q-item v-for="col in props.cols" :key="col.name">
<q-item-section><q-item-label caption>{{ col.label }}</q-item-label></q-item-section>
<q-item-section side style="max-width: 65%" class="cafs-value">
<a v-if="props.row.href && col.name === props.cols[0].name" :href="props.row.href">{{ col.value }}</a>
<template v-else>{{ col.value }}</template></q-item-section></q-item></q-list></q-card></div>
"""
PAGE_ROWS = 50


def columns_of(titles: Mapping[str, str], *, sortable: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Of fields: their headings, in order."""
    return [
        {"name": name, "label": label, "field": name, "align": "left", "sortable": name in sortable}
        for name, label in titles.items()
    ]


def show_table(
    columns: list[dict[str, Any]], rows: Rows, *, key: str = "id", rows_per_page: int = 0
) -> ui.table:
    """A table of all its rows; ``href`` of a row is where its first cell leads."""
    table = ui.table(columns=columns, rows=rows, row_key=key, pagination=rows_per_page or None)
    table.classes("full-width").props('flat bordered :grid="Quasar.Screen.lt.sm" no-data-label="None."')
    if any(column["sortable"] for column in columns):
        table.props(':grid-header="Quasar.Screen.lt.sm"')  # cards have no heads to sort them by
    table.add_slot("header-cell", _HEAD)
    table.add_slot(f"body-cell-{columns[0]['name']}", _LINKED)
    table.add_slot("item", _CARD)
    return table


class PagedTable:
    """A table whose pages come from REST, sorted there.

    ``fetch(order, descending, skip, limit)`` gives rows and how many there are in all.
    """

    def __init__(
        self,
        seen: Seen,
        columns: list[dict[str, Any]],
        fetch: Callable[[str, bool, int, int], Awaitable[tuple[Rows, int]]],
        order: str,
    ) -> None:
        self._seen = seen
        self._fetch = fetch
        self._table = show_table(columns, [], rows_per_page=PAGE_ROWS)
        self._table.props('loading-label="" :rows-per-page-options="[25, 50, 100, 500]" binary-state-sort')
        self._table.on("request", lambda event: seen.attempt(self._requested, event))
        self._state: dict[str, Any] = {
            "page": 1,
            "rowsPerPage": PAGE_ROWS,
            "sortBy": order,
            "descending": False,
        }

    async def load(self) -> None:
        """The page that is shown, anew.

        Raises:
            RefusedError: REST says no.
        """
        limit, page = self._state["rowsPerPage"], self._state["page"]
        order, descending = self._state["sortBy"], self._state["descending"]
        rows, total = await self._fetch(order, descending, (page - 1) * limit, limit)
        if not rows and page > 1:  # fewer than there were
            self._state["page"] = 1
            rows, total = await self._fetch(order, descending, 0, limit)
        self._table.rows = rows
        self._table.pagination = {**self._state, "rowsNumber": total}

    async def first(self) -> None:
        """The first page, when something else is looked for."""
        self._state["page"] = 1
        await self.load()

    async def _requested(self, event: GenericEventArguments) -> None:
        asked = event.args["pagination"]
        self._state = {
            "page": max(1, int(asked["page"])),
            "rowsPerPage": min(500, max(1, int(asked["rowsPerPage"]))),
            "sortBy": asked.get("sortBy") or self._state["sortBy"],
            "descending": bool(asked.get("descending")),
        }
        await self.load()


def moment(text: str) -> str:
    """A time of REST's, for people."""
    return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S UTC")
