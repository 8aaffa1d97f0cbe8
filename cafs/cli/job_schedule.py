"""``cafs job schedule``: have jobs made again and again, by the manager's REST."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from cafs.cli.context import Context
from cafs.cli.job_kinds import kinds
from cafs.cli.manager_rest import manager_rest
from cafs.errors import UsageError

_PAGE = 1000
_CRON = "When: MINUTE HOUR DAY MONTH WEEKDAY, as in '30 4 * * MON'."
_NAME, _TIMEZONE = "For people.", "Of these times, as in Europe/Berlin."


@click.group("schedule")
def command() -> None:
    """Have jobs made again and again.

    By the same manager, and with the same token, as cafs job create.
    """


@command.command("ls")
@click.pass_obj
def list_schedules(context: Context) -> None:
    """List schedules, and when they are due."""
    found: list[dict[str, Any]] = []
    after: int | None = 0
    with manager_rest(context.settings) as rest:
        while after is not None:
            page = rest.ask("GET", f"/schedules?after={after}&limit={_PAGE}")
            found += page["items"]
            after = page["next"]
    context.result(found, "\n".join(map(_line, found)) if found else "no schedules")


@command.command("show")
@click.argument("schedule_id", metavar="ID", type=int)
@click.pass_obj
def show(context: Context, schedule_id: int) -> None:
    """Show one schedule, and the job it makes."""
    with manager_rest(context.settings) as rest:
        found = rest.ask("GET", f"/schedules/{schedule_id}")
    context.result(found, "\n".join([_line(found), *_more(found)]))


@command.group(
    "add",
    commands=kinds(
        click.Option(["--name"], required=True, help=_NAME),
        click.Option(["--cron"], required=True, help=_CRON),
        click.Option(["--timezone"], default="UTC", show_default=True, help=_TIMEZONE),
        click.Option(["--paused"], is_flag=True, help="It makes no job until it is resumed."),
    ),
)
def add() -> None:
    """Add one that makes a job of this kind.

    A job is left out while the last one of its schedule still runs.
    """


@add.result_callback()
@click.pass_obj
def _added(context: Context, job: dict[str, Any]) -> None:
    document = {name: job.pop(name) for name in ("name", "cron", "timezone")}
    document |= {"enabled": not job.pop("paused"), "job": job}
    with manager_rest(context.settings) as rest:
        made = rest.ask("POST", "/schedules", document)
    context.result(made, _line(made))


@command.command("change")
@click.argument("schedule_id", metavar="ID", type=int)
@click.option("--name", help=_NAME)
@click.option("--cron", help=_CRON)
@click.option("--timezone", help=_TIMEZONE)
@click.pass_obj
def change(context: Context, /, schedule_id: int, **changes: str | None) -> None:
    """Change when it is due, or its name.

    What is left out stays.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if not given:
        raise UsageError("nothing is to be changed: give --name, --cron or --timezone")
    _change(context, schedule_id, given)


@command.group(
    "change-job",
    commands=kinds(click.Option(["--schedule"], type=int, required=True, metavar="ID", help="Which one.")),
)
def change_job() -> None:
    """Have one make another job instead."""


@change_job.result_callback()
@click.pass_obj
def _job_changed(context: Context, job: dict[str, Any]) -> None:
    _change(context, job.pop("schedule"), {"job": job})


@command.command("pause")
@click.argument("schedule_id", metavar="ID", type=int)
@click.pass_obj
def pause(context: Context, schedule_id: int) -> None:
    """Have it make no jobs for now."""
    _change(context, schedule_id, {"enabled": False})


@command.command("resume")
@click.argument("schedule_id", metavar="ID", type=int)
@click.pass_obj
def resume(context: Context, schedule_id: int) -> None:
    """Have it make jobs again, when next due."""
    _change(context, schedule_id, {"enabled": True})


@command.command("rm")
@click.argument("schedule_id", metavar="ID", type=int)
@click.pass_obj
def remove(context: Context, schedule_id: int) -> None:
    """Remove it; jobs that it made stay."""
    with manager_rest(context.settings) as rest:
        rest.ask("DELETE", f"/schedules/{schedule_id}", changes=True)
    context.result({"removed": schedule_id}, f"removed schedule {schedule_id}")


def _change(context: Context, schedule_id: int, changes: dict[str, Any]) -> None:
    with manager_rest(context.settings) as rest:
        changed = rest.ask("PATCH", f"/schedules/{schedule_id}", changes, changes=True)
    context.result(changed, _line(changed))


def _line(schedule: dict[str, Any]) -> str:
    spec = schedule["job"]["spec"]
    about = spec.get("url") or spec.get("image") or ""
    due = datetime.fromisoformat(schedule["next_at"]).strftime("%Y-%m-%d %H:%M")
    when = f"due {due} UTC" if schedule["enabled"] else "paused"
    return (
        f"{schedule['id']:>5}  {when:<24}  {schedule['cron']} {schedule['timezone']}  {schedule['name']}: "
        f"{schedule['job']['kind']} {about}".rstrip()
    )


def _more(schedule: dict[str, Any]) -> list[str]:
    told = {"made by": schedule["who"], "last job": schedule["last_job_id"] or "none yet", **schedule["job"]}
    shown = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in told.items()}
    return [f"       {name}: {value}" for name, value in shown.items()]
