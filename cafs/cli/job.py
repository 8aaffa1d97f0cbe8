"""``cafs job``: have the hosts of a cluster do something, by the manager's REST, and watch them."""

from __future__ import annotations

from typing import Any

import click

from cafs.cli.context import Context
from cafs.cli.job_follow import follow
from cafs.cli.job_kinds import kinds
from cafs.cli.job_schedule import command as schedule
from cafs.cli.manager_rest import manager_rest
from cafs.cli.units import format_size

_MOST_SHOWN = 20


_FOLLOW = click.Option(["--follow"], is_flag=True, help="Wait for its end; fails when it fails.")


@click.group()
def command() -> None:
    """Have hosts do something, and watch how far they are.

    Asks the manager (manager_url) with a personal access token that has the scopes jobs:read and jobs:write
    (CAFS_MANAGER_TOKEN). docs/manager.md
    """


@command.group("create", commands=kinds(_FOLLOW))
def create() -> None:
    """Make a job."""


@create.result_callback()
@click.pass_obj
def _made(context: Context, document: dict[str, Any]) -> None:
    wait = document.pop("follow")
    with manager_rest(context.settings) as rest:
        made = rest.ask("POST", "/jobs", document)
        if wait:
            _follow(context, rest, made["id"])
        else:
            context.result(made, f"job {made['id']}")


command.add_command(schedule)


@command.command("ls")
@click.option("--cluster", type=int, metavar="ID", help="Of this cluster only.")
@click.option("--state", type=click.Choice(["pending", "running", "succeeded", "failed", "cancelled"]),
              help="Only those that are so.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The newest.")
@click.pass_obj
def list_jobs(context: Context, cluster: int | None, state: str | None, limit: int) -> None:
    """List jobs, the newest first."""
    chosen = {"cluster_id": cluster, "state": state, "limit": limit}
    query = "&".join(f"{name}={value}" for name, value in chosen.items() if value is not None)
    with manager_rest(context.settings) as rest:
        found = rest.ask("GET", f"/jobs?{query}")["items"]
    lines = [_line(job) for job in found]
    context.result(found, "\n".join(lines) if lines else "no jobs")


@command.command("show")
@click.argument("job_id", metavar="ID", type=int)
@click.option("--follow", is_flag=True, help="Wait for its end; fails when it fails.")
@click.pass_obj
def show(context: Context, job_id: int, follow: bool) -> None:
    """Show one job and its hosts.

    First those that failed, then those that are at it.
    """
    with manager_rest(context.settings) as rest:
        if follow:
            _follow(context, rest, job_id)
            return
        job = rest.ask("GET", f"/jobs/{job_id}")
        states = ("failed", "told", "succeeded")
        parts = [
            part
            for state in states
            for part in rest.ask("GET", f"/jobs/{job_id}/hosts?state={state}&limit={_MOST_SHOWN}")["items"]
        ]
    context.result({**job, "parts": parts}, "\n".join([_line(job), *map(_part_line, parts)]))


@command.command("cancel")
@click.argument("job_id", metavar="ID", type=int)
@click.pass_obj
def cancel(context: Context, job_id: int) -> None:
    """Have all hosts stop; what they have by then stays."""
    _change(context, job_id, "cancel")


@command.command("retry")
@click.argument("job_id", metavar="ID", type=int)
@click.pass_obj
def retry(context: Context, job_id: int) -> None:
    """Do again what failed or was cancelled."""
    _change(context, job_id, "retry")


def _change(context: Context, job_id: int, what: str) -> None:
    with manager_rest(context.settings) as rest:
        job = rest.ask("POST", f"/jobs/{job_id}/{what}", changes=True)
    context.result(job, _line(job))


def _follow(context: Context, rest: Any, job_id: int) -> None:
    job = follow(context, rest, job_id)
    context.result(job, _line(job))
    if job["state"] != "succeeded":
        click.get_current_context().exit(1)


def _line(job: dict[str, Any]) -> str:
    spec = job["spec"]
    hosts = ", ".join(f"{count} {state}" for state, count in job["hosts"].items() if count)
    size = f", {format_size(job['done_bytes'])}" if job["done_bytes"] else ""
    about = spec.get("url") or spec.get("image") or ""
    why = f" ({job['why']})" if job["why"] else ""
    return f"{job['id']:>5}  {job['state']:<9}  {job['kind']}  {about}  {hosts or 'no hosts yet'}{size}{why}"


def _part_line(part: dict[str, Any]) -> str:
    total = f" of {format_size(part['total_bytes'])}" if part["total_bytes"] else ""
    why = f": {part['why']}" if part["why"] else ""
    told = "".join(
        f", {format_size(value) if name.endswith('_bytes') else value} {name.removesuffix('_bytes')}"
        for name, value in (part["result"] or {}).items()
        if isinstance(value, int)
    )
    note = f"; {part['result']['note']}" if part["result"] and "note" in part["result"] else ""
    done = format_size(part["done_bytes"])
    return f"       {part['hostname']}  {part['state']}  {done}{total}{told}{why}{note}"
