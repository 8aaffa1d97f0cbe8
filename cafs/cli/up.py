"""``cafs up``: all services of CAFS on one machine, in the foreground."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cafs.cli.context import Context
from cafs.cli.listening import take_addresses
from cafs.daemon.directory_lock import locked
from cafs.errors import StorageError, UsageError
from cafs.up.machine import left_out
from cafs.up.plan import NAMES, Addresses, Plan, longest_socket, node_settings, plan_services

if TYPE_CHECKING:
    from cafs.core.settings import Settings

_MAX_SOCKET_BYTES = 107
"""sockaddr_un."""
_NODE_FILE = "node.toml"
_OF = {"rest": "manager"}
"""Whose address an option is, where it is called otherwise."""


@click.command()
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR",
              help="Keep everything below DIR.  [default: cache_dir and run_dir]")  # fmt: skip
@click.option("--manager", default="127.0.0.1:65003", show_default=True, metavar="HOST:PORT",
              help="Where the manager serves services; port 0 is any free one, here and below.")  # fmt: skip
@click.option("--rest", default="127.0.0.1:65004", show_default=True, metavar="HOST:PORT",
              help="Where it serves people and programs.")  # fmt: skip
@click.option("--seed", default="127.0.0.1:65005", show_default=True, metavar="HOST:PORT",
              help="Where the seed serves other hosts.")  # fmt: skip
@click.option("--peer", metavar="HOST:PORT",
              help="Where the peer serves other hosts.  [default: peer_listen]")  # fmt: skip
@click.option("--scheduler", default="127.0.0.1:65010", show_default=True, metavar="HOST:PORT",
              help="Where the scheduler serves hosts.")  # fmt: skip
@click.option("--without", multiple=True, type=click.Choice(NAMES), help="Leave this one out.")
@click.pass_obj
def command(  # noqa: PLR0917  click calls it, by keyword
    context: Context,
    data: Path | None,
    manager: str,
    rest: str,
    seed: str,
    peer: str | None,
    scheduler: str,
    without: tuple[str, ...],
) -> None:
    """Run manager, scheduler, seed, peer, mount server and, as root, snapshotter on this machine.

    Runs until Ctrl-C or SIGTERM, which end them in order; one that dies is started again. Each is the
    ordinary command, and finds the others by options. DIR/node.toml is the configuration by which other
    commands find them: cafs --config DIR/node.toml get URL. docs/up.md
    """
    settings = _with_directories(context.settings, data)
    missing = left_out(without, is_root=os.geteuid() == 0)
    runs = [name for name in NAMES if name not in dict(missing)]
    if not runs:
        raise UsageError("there is nothing to run")
    _prepare(settings)
    with locked(settings.run_dir / "up", "cafs up"):
        addresses = _take_addresses(
            runs,
            manager=manager,
            rest=rest,
            scheduler=scheduler,
            seed=seed,
            peer=peer or settings.peer_listen,
        )
        if data is not None:
            _write_node_file(settings.cache_dir / _NODE_FILE, node_settings(settings, addresses, runs))
        plan = plan_services(settings, addresses, missing, _usual_words(context))
        for name, why in plan.left_out:
            context.note(f"without {name}: {why}")
        _run(context, settings, plan)


def _take_addresses(runs: Collection[str], **texts: str) -> Addresses:
    """By option. Those of services that do not run are not looked at."""
    wanted = {f"--{option}": text for option, text in texts.items() if _OF.get(option, option) in runs}
    taken = {option.removeprefix("--"): address for option, address in take_addresses(wanted).items()}
    return Addresses(**(texts | taken))


def _with_directories(settings: Settings, data: Path | None) -> Settings:
    """Everything below the data directory, if there is one.

    Raises:
        UsageError: it cannot be used, whatever is done about it.
    """
    if data is not None:
        data = data.absolute()
        if data.exists() and not data.is_dir():
            raise UsageError(f"--data {data}: that is no directory")
        if any(sign in str(data) for sign in ":,\n") or not str(data).isprintable():
            raise UsageError(f"--data {data!s}: overlayfs takes no colon and no comma in a path")
        settings = replace(settings, cache_dir=data, run_dir=data / "run")
    longest = longest_socket(settings.run_dir)
    if len(os.fsencode(longest)) > _MAX_SOCKET_BYTES:
        option = "--data" if data is not None else "run_dir"
        raise UsageError(f"{longest} is too long for a socket: choose a shorter {option}")
    return settings


def _prepare(settings: Settings) -> None:
    """Make the directories that the services make theirs in."""
    for directory in (settings.cache_dir, settings.run_dir):
        try:
            # Others must be able to pass: containers with ids of their own read below it.
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as e:
            raise StorageError(f"cannot make {directory}: {e.strerror}") from e
        if not os.access(directory, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write into {directory}")


def _write_node_file(path: Path, values: dict[str, object]) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    text = "\n".join(
        ["# Written by `cafs up` at each start, for other commands: cafs --config FILE ...", *lines]
    )
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_text(text + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as e:
        raise StorageError(f"cannot write {path}: {e.strerror}") from e


def _usual_words(context: Context) -> list[str]:
    """Options of ours that every service gets."""
    words = ["--debug"] if context.debug else []
    if context.config is not None:
        words.append(f"--config={context.config.absolute()}")
    return [*words, *(f"--set={flag}" for flag in context.flags)]


def _run(context: Context, settings: Settings, plan: Plan) -> None:
    import trio  # noqa: PLC0415 - only this command serves

    from cafs.up.program import Options, run  # noqa: PLC0415

    def say_ready(link: str, seconds: float) -> None:
        rows = [(service.name, *row) for service in plan.services for row in service.where]
        if link:
            rows.append(("manager", "set up", link))
        document = {
            "ready_s": round(seconds, 3),
            "services": [{"service": name, "what": what, "where": where} for name, what, where in rows],
            "left_out": dict(plan.left_out),
        }
        context.result(document, f"ready after {seconds:.1f} s\n{_table(rows)}")
        sys.stdout.flush()

    trio.run(run, plan, Options(settings.run_dir / "up", context.quiet, say_ready))


def _table(rows: list[tuple[str, str, str]]) -> str:
    first, second = (max(len(row[column]) for row in rows) for column in range(2))
    lines, before = [], ""
    for name, what, where in rows:
        lines.append(f"  {name if name != before else '':<{first}}  {what:<{second}}  {where}")
        before = name
    return "\n".join(lines)
