"""One job: a bar, its hosts, what happened; cancelled or done again."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from nicegui import ui

from cafs.manager.console.dialogs import ask_first
from cafs.manager.console.frame import Seen, heading
from cafs.manager.console.job_rows import ENDED, bytes_of, part_row, share_of, what_of
from cafs.manager.console.tables import columns_of, moment, show_table

_AGAIN_S, _REST = 1.0, 10
"""Ten thousand hosts take a while to be read, and others want the manager too: one page has a tenth of it."""
_AT_ONCE, _MOST_HOSTS, _MOST_EVENTS = 1000, 10_000, 500
_HOSTS = {
    "hostname": "Host",
    "state": "State",
    "share": "Bytes",
    "attempt": "Attempt",
    "why": "Why it failed",
}
_BY_NUMBER = {"share": {"field": "done", ":format": "(_, row) => row.share"}}
"""Sorted by a number, and not by what is written of it."""
_EVENTS = {"at": "When", "what": "What", "detail": "More"}


async def build_job(seen: Seen) -> None:
    """The page, looked at again as long as the job is under way.

    Raises:
        RefusedError: REST says no.
    """
    path = f"/jobs/{seen.part('job_id')}"
    answer = await seen.rest.ask("GET", path)
    job = answer.document
    heading(what_of(job)).classes("cafs-value")
    said = ui.label().classes("cafs-quiet cafs-value").props("role=status")
    bar = ui.linear_progress(value=0, show_value=False).props('size=12px rounded aria-label="How far it is"')
    buttons = ui.row()
    columns = columns_of(_HOSTS, sortable=tuple(_HOSTS))
    for column in columns:
        column.update(_BY_NUMBER.get(column["name"], {}))
    table = show_table(columns, [], rows_per_page=50)
    heading("What happened", 2)
    events = show_table(columns_of(_EVENTS), [])
    state = {"etag": answer.etag, "shown": ""}

    async def change(what: str) -> None:
        await seen.rest.ask("POST", f"{path}/{what}", etag=state["etag"])
        await fill()

    async def fill() -> None:
        answer, parts, happened = await asyncio.gather(
            seen.rest.ask("GET", path),
            _parts(seen, path),
            seen.rest.get(f"{path}/events", limit=_MOST_EVENTS),
        )
        job, state["etag"] = answer.document, answer.etag
        said.text, bar.value = say(job), share_of(job)
        if table.rows != (rows := [part_row(part) for part in parts]):
            table.rows = rows
        events.rows = [{**event, "at": moment(event["at"])} for event in happened["items"]]
        if state["shown"] != job["state"]:
            state["shown"] = job["state"]
            buttons.clear()
            if seen.may("operator", job["cluster_id"]):
                with buttons:
                    _show_button(job, seen, change)

    async def again() -> None:
        if state["shown"] not in ENDED:
            began = time.monotonic()
            await fill()
            timer.interval = pause_s(time.monotonic() - began)

    await fill()
    timer = ui.timer(_AGAIN_S, seen.does(again), immediate=False)


def _show_button(job: dict[str, Any], seen: Seen, change: Any) -> None:
    if job["state"] not in ENDED:
        button = ui.button("Cancel it", icon="cancel").props("outline no-caps color=negative")
        ask_first(
            button, "Have all hosts stop? What they have by then stays there.", seen.does(change, "cancel")
        )
    elif job["state"] != "succeeded":
        ui.button("Do again what failed", icon="replay", on_click=seen.does(change, "retry")).props("no-caps")


async def _parts(seen: Seen, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None and len(found) < _MOST_HOSTS:
        # What hosts answered to a sync is 40 KiB of each, and nothing of it is shown here.
        page = await seen.rest.get(f"{path}/hosts", after=after, limit=_AT_ONCE, results="false")
        found += page["items"]
        after = page["next"]
    return found


def pause_s(took_s: float) -> float:
    """Until a job is looked at again. Pure."""
    return max(_AGAIN_S, _REST * took_s)


def say(job: dict[str, Any]) -> str:
    """Where a job stands, in one line. Pure."""
    hosts = job["hosts"]
    counted = ", ".join(f"{count:,} {state}" for state, count in hosts.items() if count)
    words = [
        f"Job {job['id']} of {job['who']}: {job['state']}",
        counted or "no host yet",
        bytes_of(job),
        job["why"],
    ]
    return " · ".join(word for word in words if word)
