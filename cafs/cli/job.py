"""``cafs job``: have the hosts of a cluster do something, by the manager's REST, and watch them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from cafs.cli.context import Context
from cafs.cli.get import parse_header
from cafs.cli.job_follow import follow
from cafs.cli.manager_rest import manager_rest
from cafs.cli.units import format_size
from cafs.core.swarm.priorities import HIGHEST, USUAL
from cafs.errors import UsageError

_MOST_SHOWN = 20


@click.group()
def command() -> None:
    """Have hosts do something, and watch how far they are.

    Asks the manager (manager_url) with a personal access token that has the scopes jobs:read and jobs:write
    (CAFS_MANAGER_TOKEN). docs/manager.md
    """


@command.group("create")
def create() -> None:
    """Make a job."""


def _usual(function: Callable[..., None]) -> Callable[..., None]:
    """The options of every kind of job."""
    for option in (
        click.option("--follow", is_flag=True, help="Wait for its end; fails when it fails."),
        click.option("--timeout", "timeout_s", type=int, default=3600, show_default=True, metavar="SECONDS",
                     help="What is not done by then has failed."),
        click.option("--retries", type=int, default=2, show_default=True,
                     help="How often a host that fails is told again."),
        click.option("--concurrency", type=int, default=50, show_default=True,
                     help="Hosts that are at it at once."),
        click.option("--hosts", default="all", show_default=True, metavar="WHICH",
                     help="all, one, a share of them as in 50%, or NAME,NAME..."),
        click.option("--cluster", "cluster_id", type=int, default=1, show_default=True, metavar="ID",
                     help="Whose peers do it; of a seed cluster, whose seeds."),
    ):  # fmt: skip
        function = option(function)
    return function


@create.command("file")
@click.argument("url")
@click.option("--digest", metavar="sha256:HEX", help="The content must have it.")
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'",
              help="Sent to the origin; no credentials.")  # fmt: skip
@click.option("--tag", default="", help="As for cafs get.")
@click.option("--application", default="", help="The same.")
@click.option("--filter", "filtered", multiple=True, metavar="NAME", help="The same.")
@click.option("--priority", type=click.IntRange(1, HIGHEST), default=USUAL, show_default=True,
              help="The same.")  # fmt: skip
@_usual
@click.pass_obj
def create_file(  # noqa: PLR0917 - click calls it, by keyword
    context: Context, /, url: str, digest: str | None, headers: tuple[str, ...], tag: str, application: str,
    filtered: tuple[str, ...], priority: int, **usual: Any,
) -> None:  # fmt: skip
    """Preheat a file.

    Hosts have it before anybody asks for it with cafs get.
    """
    pairs = (parse_header(header) for header in headers)
    spec = {
        "url": url,
        "digest": digest,
        "headers": [{"name": name, "value": value} for name, value in pairs],
        "tag": tag,
        "application": application,
        "filtered_query": list(filtered),
        "priority": priority,
    }
    _create(context, "preheat_file", spec, **usual)


@create.command("image")
@click.argument("image")
@click.option("--start", "start_only", is_flag=True,
              help="Layer indexes and the start profile's chunks only.")  # fmt: skip
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH",
              help="By default each host's own.")  # fmt: skip
@click.option("--priority", type=click.IntRange(1, HIGHEST), default=USUAL, show_default=True,
              help="Of blobs that are fetched whole.")  # fmt: skip
@_usual
@click.pass_obj
def create_image(
    context: Context, /, image: str, start_only: bool, platforms: tuple[str, ...], priority: int, **usual: Any
) -> None:
    """Preheat an image (HOST/REPO:TAG).

    Of a converted one hosts get the chunks that mounts read, of others the layers' blobs.
    """
    content = "start" if start_only else "all"
    spec = {"image": image, "content": content, "platforms": list(platforms), "priority": priority}
    _create(context, "preheat_image", spec, **usual)


@create.command("delete")
@click.argument("content", metavar="URL|TASK")
@click.option("--digest", metavar="sha256:HEX", help="As for cafs get.")
@click.option("--tag", default="", help="The same.")
@click.option("--application", default="", help="The same.")
@click.option("--filter", "filtered", multiple=True, metavar="NAME", help="The same.")
@_usual
@click.pass_obj
def create_deletion(  # noqa: PLR0917 - click calls it, by keyword
    context: Context, /, content: str, digest: str | None, tag: str, application: str,
    filtered: tuple[str, ...], **usual: Any,
) -> None:  # fmt: skip
    """Have hosts hold nothing of a content any more.

    Downloads of it that are under way fail.
    """
    spec: dict[str, Any] = {"task_id": content}
    if "://" in content:
        spec = {
            "url": content, "digest": digest, "tag": tag, "application": application,
            "filtered_query": list(filtered),
        }  # fmt: skip
    _create(context, "delete", spec, **usual)


@create.command("sync")
@_usual
@click.pass_obj
def create_sync(context: Context, /, **usual: Any) -> None:
    """Ask hosts what they hold; show tells."""
    _create(context, "sync", {}, **usual)


@create.command("gc")
@click.option("--idle", "idle_s", type=int, default=0, metavar="SECONDS",
              help="Delete tasks that were not used for so long.")  # fmt: skip
@_usual
@click.pass_obj
def create_collection(context: Context, /, idle_s: int, **usual: Any) -> None:
    """Have hosts give room back to their disks.

    Stores are brought within their quotas.
    """
    _create(context, "gc", {"idle_s": idle_s}, **usual)


@create.command("convert")
@click.argument("image")
@click.argument("target", required=False)
@click.option("--platform", metavar="OS/ARCH", help="Only this image of several; all are usual.")
@click.option("--image", "bound", metavar="NEWREF", help="Write a new image that carries the result.")
@click.option("--chunk-dict", "dictionaries", multiple=True, metavar="REF",
              help="An image whose chunks are referred to.")  # fmt: skip
@_usual
@click.pass_obj
def create_conversion(  # noqa: PLR0917 - click calls it, by keyword
    context: Context, /, image: str, target: str | None, platform: str | None, bound: str | None,
    dictionaries: tuple[str, ...], **usual: Any,
) -> None:  # fmt: skip
    """Convert an image (HOST/REPO:TAG).

    The manager's machine does it, as cafs convert would there.
    """
    spec = {
        "image": image, "target": target, "platform": platform, "bound": bound,
        "dictionaries": list(dictionaries),
    }  # fmt: skip
    _create(context, "convert", spec, **usual)


def _create(context: Context, kind: str, spec: Any, *, follow: bool, hosts: str, **fields: Any) -> None:
    document = {"kind": kind, "spec": spec, "scope": _scope(hosts), **fields}
    with manager_rest(context.settings) as rest:
        made = rest.ask("POST", "/jobs", document)
        if follow:
            _follow(context, rest, made["id"])
        else:
            context.result(made, f"job {made['id']}")


def _scope(text: str) -> dict[str, Any]:
    if text in {"all", "one"}:
        return {"hosts": text}
    if text.endswith("%"):
        if not text[:-1].isdecimal():
            raise UsageError(f"--hosts {text}: a share is 1% to 100%")
        return {"hosts": "percent", "percent": int(text[:-1])}
    return {"hosts": "named", "names": [name for name in text.split(",") if name]}


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
    return f"       {part['hostname']}  {part['state']}  {format_size(part['done_bytes'])}{total}{told}{why}"
