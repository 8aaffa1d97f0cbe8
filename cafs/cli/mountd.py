"""``cafs mountd``: the node's mount server, in the foreground."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.control_socket.protocol import RUN_NAME
from cafs.core.settings import Settings
from cafs.errors import UsageError


@click.command()
@click.option("--root", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where indexes and chunks are kept; cache_dir unless given.")  # fmt: skip
@click.option("--run", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Where its socket, its state and its mount are; run_dir/mountd unless given.")  # fmt: skip
@click.option("--prefetch", type=click.Choice(["none", "profile", "all", "auto"]), default="auto",
              show_default=True, help="What to fetch of an image before it is read.")  # fmt: skip
@click.option("--stop", is_flag=True, help="End the mount server that runs; refused while layers are used.")
@click.option("--force", is_flag=True, help="With --stop: also while layers are used, which then fail.")
@click.option("--replace", "replaces", is_flag=True,
              help="Have the mount server that runs go on with the code installed now.")  # fmt: skip
@click.pass_obj
def command(  # noqa: PLR0917  click calls it, by keyword
    context: Context,
    root: Path | None,
    run: Path | None,
    prefetch: str,
    stop: bool,
    force: bool,
    replaces: bool,
) -> None:
    """Serve the layers of images to this node's containers, lazily, until it is ended.

    The snapshotter asks it, over a socket, to show layers; the kernel mounts them. A server that is killed is
    replaced at once, and readers only wait. Under systemd a restart or an upgrade goes on with the same
    mount; without it, '--replace' does.
    """
    if force and not stop:
        raise UsageError("--force belongs to --stop")
    if stop and replaces:
        raise UsageError("--stop or --replace, not both")
    settings = context.settings
    if root is not None:
        settings = replace(settings, cache_dir=root.resolve())
    path = (run or settings.run_dir / RUN_NAME).resolve()
    if stop:
        _stop(context, path, force=force)
    elif replaces:
        _replace(context, path)
    else:
        _serve(path, settings, prefetch)


def _serve(path: Path, settings: Settings, prefetch: str) -> None:
    from cafs.daemon.service_manager import ServiceManager, take_handed_over  # noqa: PLC0415
    from cafs.node.keeper import set_up_log  # noqa: PLC0415  only the service needs all this
    from cafs.node.mountd.begin import begin  # noqa: PLC0415
    from cafs.node.mountd.keeper import keep_session  # noqa: PLC0415
    from cafs.node.mountd.state import MountdRequest, RunDirectory  # noqa: PLC0415

    handed_over = take_handed_over(os.environ)
    manager = ServiceManager(os.environ)
    set_up_log(None)
    session = begin(RunDirectory(path), MountdRequest(prefetch=prefetch, settings=settings), handed_over)
    keep_session(session, manager)


def _stop(context: Context, path: Path, *, force: bool) -> None:
    from cafs.node.mountd.orders import stop  # noqa: PLC0415
    from cafs.node.mountd.state import RunDirectory  # noqa: PLC0415

    ended = stop(RunDirectory(path), force=force)
    context.note("the mount server has ended" if ended else f"no mount server runs on {path}")


def _replace(context: Context, path: Path) -> None:
    from cafs.control_socket.blocking import BlockingClient  # noqa: PLC0415
    from cafs.node.mountd.orders import replace as replace_server  # noqa: PLC0415
    from cafs.node.mountd.state import RunDirectory  # noqa: PLC0415

    directory = RunDirectory(path)
    client = BlockingClient(directory.socket)
    pid = replace_server(directory, lambda: int(client.status()["server_pid"]))
    context.note(f"the mount server goes on as process {pid}")
