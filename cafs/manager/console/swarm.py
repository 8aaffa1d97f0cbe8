"""A task's swarm as a graph, who fed whom and how fast, and why the scheduler chose as it did."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from cafs.manager.console.cluster import cluster_of
from cafs.manager.console.frame import Page, Seen, heading
from cafs.manager.console.rest import RefusedError
from cafs.manager.console.statistics_of import Whose, show_statistics
from cafs.manager.console.swarm_graph import graph_of, names_of, rate_text
from cafs.manager.console.tables import columns_of, show_table
from cafs.manager.console.tasks import task_row

_AGAIN_S = 2.0
_FEEDS = {"parent": "From", "child": "To", "pieces": "Pieces", "rate": "Now"}
_CANDIDATES = {"host": "Host", "chosen": "Chosen", "score": "Score", "parts": "Parts", "filtered": "Remark"}
_MOST_DECISIONS = 40
_NOT_KNOWN = (404, 503)
"""No scheduler knows the task any more, or who may does not answer: what was counted is there still."""


async def _build(seen: Seen) -> None:
    cluster, _ = await cluster_of(seen, "Tasks")
    name = seen.part("task_id")
    path = f"/clusters/{cluster['id']}/tasks/{name}"
    try:
        swarm = await seen.rest.get(f"{path}/swarm")
    except RefusedError as e:
        if e.status not in _NOT_KNOWN:
            raise
        heading(name, 2).classes("cafs-value")
        ui.label(str(e)).classes("cafs-gone")
    else:
        await _show_swarm(seen, path, swarm)
    heading("Statistics", 2)
    ui.label("In all clusters, those of seeds too.").classes("cafs-quiet")
    show_statistics(seen, Whose({"task_id": name}))


async def _show_swarm(seen: Seen, path: str, swarm: dict[str, Any]) -> None:
    task = swarm["task"]
    heading(task["url"] or task["digest"] or task["id"], 2).classes("cafs-value")
    line = ui.label("").props("data-summary")
    ui.label("From the source on the left to whom it went. Thick lines: fast now.").classes("cafs-quiet")
    chart = ui.echart(graph_of(swarm)).classes("full-width").style("height: 420px")
    chart.props('role=img aria-label="Who feeds whom"')
    feeds = show_table(columns_of(_FEEDS, sortable=("pieces",)), [], rows_per_page=25)

    def fill(swarm: dict[str, Any]) -> None:
        line.text = summary(swarm["task"])
        options = graph_of(swarm)
        if chart.options["series"] != options["series"]:
            chart.options.update(options)
            chart.update()
        rows = feed_rows(swarm)
        if feeds.rows != rows:
            feeds.rows = rows

    async def again() -> None:
        fill(await seen.rest.get(f"{path}/swarm"))

    fill(swarm)
    heading("Why", 2)
    why = ui.column().classes("full-width")

    async def explain() -> None:
        told = await seen.rest.get(f"{path}/explanation")
        why.clear()
        with why:
            _show_decisions(told["decisions"])

    await explain()
    ui.button("Look again", icon="refresh", on_click=seen.does(explain)).props("outline no-caps")
    ui.timer(_AGAIN_S, seen.does(again), immediate=False)


def _show_decisions(decisions: list[dict[str, Any]]) -> None:
    if not decisions:
        ui.label("Nothing is remembered.")
    with ui.list().props("bordered separator").classes("full-width"):
        for decision in reversed(decisions[-_MOST_DECISIONS:]):
            of = f" of download {decision['peer_id'][:12]}" if decision["peer_id"] else ""
            head = f"{decision['what']}{of}: {decision['why']}"
            when = f"{decision['ago_s']:,.1f} s ago"
            if not decision["candidates"]:
                with ui.item(), ui.item_section():
                    ui.item_label(head)
                    ui.item_label(when).props("caption")
                continue
            with ui.expansion(head, caption=f"{when}, {len(decision['candidates'])} hosts looked at").classes(
                "full-width"
            ):
                show_table(columns_of(_CANDIDATES), candidate_rows(decision["candidates"]))


def candidate_rows(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chosen first, then by score. Pure."""
    names = names_of([{"id": one["host_id"], "hostname": one["hostname"]} for one in candidates])
    ordered = sorted(candidates, key=lambda one: (not one["chosen"], -one["score"]))
    return [
        {
            "id": number,
            "host": names[one["host_id"]],
            "chosen": "yes" if one["chosen"] else "",
            "score": f"{one['score']:.2f}" if one["score"] else "",
            "parts": " ".join(f"{name} {value:.2f}" for name, value in one["parts"].items() if value),
            "filtered": one["filtered"],
        }
        for number, one in enumerate(ordered)
    ]


def feed_rows(swarm: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines of the table, as REST has them: the busiest first. Pure."""
    names = names_of(swarm["hosts"])
    return [
        {
            "id": f"{feed['parent']} {feed['child']}",
            "parent": "the source" if feed["parent"] is None else names[feed["parent"]],
            "child": names[feed["child"]],
            "pieces": feed["pieces"],
            "rate": rate_text(feed["bytes_per_s"]),
        }
        for feed in swarm["feeds"]
    ]


def summary(task: dict[str, Any]) -> str:
    """In a sentence. Pure."""
    row = task_row(0, task)
    return (
        f"{row['state']}, {row['size']} MiB in {task['pieces'] or '?'} pieces; {task['hosts']} hosts, "
        f"{task['complete']} have all, {task['downloading']} download; "
        f"{row['source']} copies came from the source, {row['swarm']} from hosts."
    )


PAGES = (Page("/clusters/{cluster_id:int}/tasks/{task_id}", "Task", _build),)
