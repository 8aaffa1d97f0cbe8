"""``cafs task``: what this node's peer holds, asked over its socket; why its scheduler decided."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from cafs.cli.context import Context
from cafs.cli.units import format_size
from cafs.errors import NotFoundError, RemoteError, UnavailableError

_MOST_BYTES = 256 << 20
_PATIENCE_S = 30.0
_WHOLE_ID = 64
_OK, _NO_CONTENT, _NOT_FOUND = 200, 204, 404


@click.group()
def command() -> None:
    """Show, explain and delete what this node's peer holds."""


@command.command("ls")
@click.pass_obj
def list_tasks(context: Context) -> None:
    """List tasks, the one used last first."""
    found = ask_peer(context, "GET", "/v1/tasks")["tasks"]
    found.sort(key=lambda task: -task["used_at"])
    lines = [
        f"{task['id'][:16]}  {_progress(task):>9}  {format_size(task['held_bytes']):>10}  {task['url']}"
        for task in found
    ]
    context.result(found, "\n".join(lines) if lines else "no tasks")


@command.command("show")
@click.argument("task")
@click.pass_obj
def show(context: Context, task: str) -> None:
    """Show one task; its id may be cut short."""
    document = ask_peer(context, "GET", f"/v1/tasks/{_whole_id(context, task)}")
    shown = {key: value for key, value in document.items() if key not in {"digests", "have", "headers"}}
    context.result(document, "\n".join(f"{key}: {value}" for key, value in shown.items()))


@command.command("rm", short_help="Delete tasks from this host.")
@click.argument("tasks", nargs=-1, required=True)
@click.pass_obj
def remove(context: Context, tasks: tuple[str, ...]) -> None:
    """Delete tasks from this host; downloads of them that are under way fail."""
    names = [_whole_id(context, task) for task in tasks]
    for name in names:
        ask_peer(context, "DELETE", f"/v1/tasks/{name}")
    context.result({"deleted": names}, "\n".join(f"deleted {name}" for name in names))


@command.command("explain", short_help="Tell why a task came from where it did.")
@click.argument("task")
@click.option("--peer", "peer_id", default="", metavar="ID", help="Of one download only.")
@click.pass_obj
def explain(context: Context, task: str, peer_id: str) -> None:
    """Tell why the scheduler chose which parents, and who went to the source.

    TASK is an id; that of a task which this node holds may be cut short.
    """
    from cafs.p2p.explain import explain_task  # noqa: PLC0415 - loads grpc

    name = task if len(task) == _WHOLE_ID else _whole_id(context, task)
    document, text = explain_task(context.settings, name, peer_id)
    context.result(document, text)


def _progress(task: dict[str, Any]) -> str:
    if task["complete"]:
        return "complete"
    return f"{task['pieces_here']}/{task['pieces'] if task['pieces'] is not None else '?'}"


def _whole_id(context: Context, beginning: str) -> str:
    found = [task["id"] for task in ask_peer(context, "GET", "/v1/tasks")["tasks"]]
    matching = [name for name in found if name.startswith(beginning)]
    if len(matching) != 1:
        what = "several tasks begin" if matching else "no task begins"
        raise NotFoundError(f"{what} with {beginning[:80]} (cafs task ls lists them)")
    return str(matching[0])


def ask_peer(context: Context, method: str, target: str) -> Any:
    """What this node's peer answers.

    Raises:
        UnavailableError: none runs.
        NotFoundError, RemoteError: it says no.
    """
    import trio  # noqa: PLC0415 - not before something is asked

    from cafs.fetch.local_peer import peer_socket  # noqa: PLC0415
    from cafs.http11.connection import connect_unix  # noqa: PLC0415
    from cafs.http11.pool import AwayError, ConnectionPool  # noqa: PLC0415

    path = peer_socket(context.settings.run_dir)
    pool = ConnectionPool("the peer", "peer", partial(connect_unix, str(path)))
    try:
        answer = trio.run(partial(pool.ask, method, target, most_bytes=_MOST_BYTES, stall_s=_PATIENCE_S))
    except AwayError as e:
        raise UnavailableError(f"no peer answers on {path}: is cafs peer running?") from e
    if answer.status == _NO_CONTENT:
        return None
    document = json.loads(answer.body)
    if answer.status != _OK:
        kind = NotFoundError if answer.status == _NOT_FOUND else RemoteError
        raise kind(str(document["error"]))
    return document
