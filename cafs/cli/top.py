"""``cafs top``: what this node's peer does, as it does it."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from cafs.cli.context import Context
from cafs.cli.task import ask_peer
from cafs.cli.units import format_size

_ROWS, _PARENTS = 20, 4


@click.command()
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option("--every", default=1.0, show_default=True, type=click.FloatRange(0.1, 60), metavar="SECONDS",
              help="How often to look.")  # fmt: skip
@click.pass_obj
def command(context: Context, once: bool, every: float) -> None:
    """Show tasks, rates, and what comes from other hosts and what from the source. Ctrl-C ends it."""
    before: dict[str, Any] | None = None
    while True:
        seen = look(context)
        if once or context.json:
            context.result(seen, "\n".join(page(seen, before)))
            return
        sys.stdout.write("\x1b[H\x1b[2J" + "\n".join(page(seen, before)) + "\n")
        sys.stdout.flush()
        before = seen
        time.sleep(every)


def look(context: Context) -> dict[str, Any]:
    """The peer's own words, and when."""
    status = ask_peer(context, "GET", "/v1/status")
    tasks = ask_peer(context, "GET", "/v1/tasks")["tasks"]
    return {"at": time.monotonic(), "status": status, "tasks": tasks}


def page(seen: dict[str, Any], before: dict[str, Any] | None) -> list[str]:
    """Lines for people. Rates are those since ``before``."""
    past_s = seen["at"] - before["at"] if before is not None else 0.0
    status, rates = seen["status"], _Rates(before["status"] if before is not None else None, past_s)
    downloads, chunks = status["downloads"], status["chunks"]
    lines = [
        f"{status['type']} {status['host_id'][:12]}, {len(status['schedulers'])} schedulers,"
        f" {format_size(status['resident_bytes'])} resident, up {status['up_s']:.0f} s",
        f"pieces  from hosts {rates.shown(downloads, 'peer_bytes', 'downloads')},"
        f" from origins {rates.shown(downloads, 'source_bytes', 'downloads')}",
        f"chunks  from hosts {rates.shown(chunks, 'peer_bytes', 'chunks')},"
        f" from registries {rates.shown(chunks, 'source_bytes', 'chunks')}",
        f"sent    {rates.shown(status, 'upload_bytes')},"
        f" {status['uploads']} requests now; {downloads['active']} downloads",
        "",
    ]
    running = frozenset(status["downloading"])
    ordered = sorted(seen["tasks"], key=lambda task: (task["id"] not in running, -task["used_at"]))
    for task in ordered[:_ROWS]:
        lines += _task_lines(task, status["traffic"].get(task["id"]), rates, running=task["id"] in running)
    return lines


class _Rates:
    """Of what grows, since an earlier look."""

    def __init__(self, before: dict[str, Any] | None, past_s: float) -> None:
        self._before = before
        self._past_s = past_s

    def shown(self, now: dict[str, Any], name: str, *place: str) -> str:
        """A number of bytes, and how fast it grew; ``place``: where in the status ``now`` is."""
        total = format_size(now[name])
        if self._before is None or self._past_s <= 0:
            return total
        old: Any = self._before
        for key in place:
            old = old.get(key, {})
        grown = now[name] - old.get(name, 0)
        return f"{total} ({format_size(int(grown / self._past_s))}/s)" if grown > 0 else total


def _task_lines(
    task: dict[str, Any], traffic: dict[str, Any] | None, rates: _Rates, *, running: bool
) -> list[str]:
    """A task, and below it where it came from since the peer began, if something did."""
    mark = "*" if running else " "
    count = task["pieces"] if task["pieces"] is not None else "?"
    here = f"{task['pieces_here']}/{count}"
    size, what = format_size(task["held_bytes"]), task["url"] or task["digest"]
    lines = [f"{mark} {task['id'][:12]}  {here:>11}  {size:>10}  {what}"]
    if traffic is None:
        return lines
    place = ("traffic", task["id"])
    peers = rates.shown(traffic, "peer_bytes", *place)
    source = rates.shown(traffic, "source_bytes", *place)
    lines.append(f"      {_share(traffic)} from hosts: {peers}; from the source: {source}")
    parents = sorted(traffic["parents"].items(), key=lambda parent: (-parent[1], parent[0]))
    if parents:
        shown = ", ".join(
            f"{address} {rates.shown(traffic['parents'], address, *place, 'parents')}"
            for address, _ in parents[:_PARENTS]
        )
        more = f", {len(parents) - _PARENTS} more" if len(parents) > _PARENTS else ""
        lines.append(f"      parents: {shown}{more}")
    return lines


def _share(traffic: dict[str, Any]) -> str:
    total = traffic["peer_bytes"] + traffic["source_bytes"]
    return f"{100 * traffic['peer_bytes'] / total:.0f}%" if total else "nothing"
