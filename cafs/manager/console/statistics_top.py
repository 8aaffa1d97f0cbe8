"""Who has the most of something: hosts, applications and tasks, each leading to its own statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from cafs.manager.console.frame import Seen, heading
from cafs.manager.console.rest import RefusedError
from cafs.manager.console.statistics_of import HOURS, ago, size_text
from cafs.manager.console.tables import columns_of, show_table
from cafs.manager.http.paths import CONSOLE

_TOP = {"host": "Hosts", "application": "Applications", "task": "Tasks"}
_BY = {
    "origin_bytes": "From the origin",
    "seed_bytes": "From seeds",
    "peer_bytes": "From peers",
    "local_bytes": "Already here",
    "upload_bytes": "Sent to other hosts",
    "downloads_failed": "Failed downloads",
    "pieces_failed": "Failed pieces",
    "chunks_not_brought": "Chunks not brought",
    "requests_failed": "Failed requests of proxies",
}
_OTHERS = {
    "origin_bytes": _BY["origin_bytes"],
    "seed_bytes": _BY["seed_bytes"],
    "peer_bytes": _BY["peer_bytes"],
    "hit_ratio": "Not from the origin",
    "downloads_failed": _BY["downloads_failed"],
    "first_byte_p90_ms": "First byte, 90%",
}
_SHOWN = 10
_MOST_CLUSTERS, _MOST_TASKS = 4, 1000


class Tops:
    """Three tables, and by what."""

    def __init__(self, seen: Seen, cluster_id: str, schedulers: Iterable[str]) -> None:
        """
        Args:
            seen: The page, where the tables are put.
            cluster_id: Only of this one; empty: of all.
            schedulers: Clusters whose schedulers know what tasks are.
        """
        self._seen = seen
        self._query = {"cluster_id": cluster_id} if cluster_id else {}
        self._schedulers = [cluster_id] if cluster_id in schedulers else list(schedulers)[:_MOST_CLUSTERS]
        self._names: dict[str, str] = {}
        self._hours = 1
        self._asked = False
        """Schedulers, what tasks are: once."""
        heading("Who has the most", 2)
        self._by = ui.select(_BY, value="origin_bytes", label="Of").props("outlined dense options-dense")
        self._by.style("min-width: 240px; align-self: flex-start")
        self._by.on_value_change(seen.does(self._again))
        self._tables = {}
        for of, title in _TOP.items():
            self._tables[of] = show_table(columns_of({"name": title}), [])
            self._tables[of].props(f'aria-label="{title}"')

    async def fill(self, hours: int) -> None:
        """Of so many hours up to now.

        Raises:
            RefusedError: REST says no.
        """
        self._hours = hours
        by = str(self._by.value)
        asked = {**self._query, "by": by, "from": ago(hours), "limit": _SHOWN}
        tops = await asyncio.gather(
            *(self._seen.rest.get("/statistics/top", of=of, **asked) for of in self._tables)
        )
        items = dict(zip(self._tables, (top["items"] for top in tops), strict=True))
        await self._name_hosts(item["name"] for item in items["host"])
        if (hours, by) != (self._hours, self._by.value):
            return  # something else was chosen meanwhile, and is looked at already
        shown = {name: title for name, title in _OTHERS.items() if name != by}
        for of, table in self._tables.items():
            table.columns = columns_of({"name": _TOP[of], by: _BY[by], **shown})
            table.rows = [top_row(of, item, self._names, self._query, hours) for item in items[of]]
        if items["task"] and not self._asked:
            await self._name_tasks()

    async def _name_tasks(self) -> None:
        """As far as schedulers know them; of others the id is shown."""

        async def ask(number: str) -> None:
            with suppress(RefusedError):  # none is there, or it does not answer
                page = await self._seen.rest.get(f"/clusters/{number}/tasks", limit=_MOST_TASKS)
                self._names |= {task["id"]: task["url"] or task["digest"] for task in page["items"]}

        self._asked = True
        await asyncio.gather(*map(ask, self._schedulers))
        await self._again()

    async def _again(self) -> None:
        await self.fill(self._hours)

    async def _name_hosts(self, host_ids: Iterable[str]) -> None:
        async def name(host_id: str) -> None:
            with suppress(RefusedError):  # it was forgotten
                self._names[host_id] = (await self._seen.rest.get(f"/hosts/{host_id}"))["hostname"]

        await asyncio.gather(*(name(host_id) for host_id in host_ids if host_id not in self._names))


def top_row(
    of: str, item: Mapping[str, Any], names: Mapping[str, str], query: Mapping[str, str], hours: int
) -> dict[str, Any]:
    """A line of a table. Pure."""
    name = item["name"]
    if of == "host":
        path, address = f"/hosts/{name}", {}
    else:
        path, address = "/statistics", {"application" if of == "application" else "task_id": name, **query}
    short = name if of == "application" else name[:16]
    return {
        "id": name,
        "href": f"{CONSOLE}{path}?{urlencode({**address, HOURS: hours})}",
        "name": names.get(name) or short,
        **{metric: _text(metric, value) for metric, value in item["values"].items()},
    }


def _text(metric: str, value: float | None) -> str:
    if value is None:
        return "?"
    if metric == "hit_ratio":
        return f"{value:.1%}"
    if metric.endswith("_ms"):
        return f"{value:,.0f} ms"
    return size_text(value) if metric.endswith("_bytes") else f"{value:,.0f}"
