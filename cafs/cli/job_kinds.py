"""The kinds of jobs as commands: each makes of its options what is sent to the manager, and sends nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from cafs.cli.get import parse_header
from cafs.core.swarm.priorities import HIGHEST, USUAL
from cafs.errors import UsageError

Document = dict[str, Any]


def _usual(function: Callable[..., Document]) -> Callable[..., Document]:
    """The options of every kind of job."""
    for option in (
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


@click.command("file")
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
def preheat_file(  # noqa: PLR0917 - click calls it, by keyword
    url: str, digest: str | None, headers: tuple[str, ...], tag: str, application: str,
    filtered: tuple[str, ...], priority: int, **usual: Any,
) -> Document:  # fmt: skip
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
    return _job("preheat_file", spec, **usual)


@click.command("image")
@click.argument("image")
@click.option("--start", "start_only", is_flag=True,
              help="Layer indexes and the start profile's chunks only.")  # fmt: skip
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH",
              help="By default each host's own.")  # fmt: skip
@click.option("--priority", type=click.IntRange(1, HIGHEST), default=USUAL, show_default=True,
              help="Of blobs that are fetched whole.")  # fmt: skip
@_usual
def preheat_image(
    image: str, start_only: bool, platforms: tuple[str, ...], priority: int, **usual: Any
) -> Document:
    """Preheat an image (HOST/REPO:TAG).

    Of a converted one hosts get the chunks that mounts read, of others the layers' blobs.
    """
    content = "start" if start_only else "all"
    spec = {"image": image, "content": content, "platforms": list(platforms), "priority": priority}
    return _job("preheat_image", spec, **usual)


@click.command("delete")
@click.argument("content", metavar="URL|TASK")
@click.option("--digest", metavar="sha256:HEX", help="As for cafs get.")
@click.option("--tag", default="", help="The same.")
@click.option("--application", default="", help="The same.")
@click.option("--filter", "filtered", multiple=True, metavar="NAME", help="The same.")
@_usual
def delete(
    content: str, digest: str | None, tag: str, application: str,
    filtered: tuple[str, ...], **usual: Any,
) -> Document:  # fmt: skip
    """Have hosts hold nothing of a content any more.

    Downloads of it that are under way fail.
    """
    spec: dict[str, Any] = {"task_id": content}
    if "://" in content:
        spec = {
            "url": content, "digest": digest, "tag": tag, "application": application,
            "filtered_query": list(filtered),
        }  # fmt: skip
    return _job("delete", spec, **usual)


@click.command("sync")
@_usual
def sync(**usual: Any) -> Document:
    """Ask hosts what they hold; show tells."""
    return _job("sync", {}, **usual)


@click.command("gc")
@click.option("--idle", "idle_s", type=int, default=0, metavar="SECONDS",
              help="Delete tasks that were not used for so long.")  # fmt: skip
@_usual
def collect(idle_s: int, **usual: Any) -> Document:
    """Have hosts give room back to their disks.

    Stores are brought within their quotas.
    """
    return _job("gc", {"idle_s": idle_s}, **usual)


@click.command("convert")
@click.argument("image")
@click.argument("target", required=False)
@click.option("--platform", metavar="OS/ARCH", help="Only this image of several; all are usual.")
@click.option("--image", "bound", metavar="NEWREF", help="Write a new image that carries the result.")
@click.option("--chunk-dict", "dictionaries", multiple=True, metavar="REF",
              help="An image whose chunks are referred to.")  # fmt: skip
@_usual
def convert(
    image: str, target: str | None, platform: str | None, bound: str | None,
    dictionaries: tuple[str, ...], **usual: Any,
) -> Document:  # fmt: skip
    """Convert an image (HOST/REPO:TAG).

    The manager's machine does it, as cafs convert would there.
    """
    spec = {
        "image": image, "target": target, "platform": platform, "bound": bound,
        "dictionaries": list(dictionaries),
    }  # fmt: skip
    return _job("convert", spec, **usual)


def _job(kind: str, spec: Document, *, hosts: str, **fields: Any) -> Document:
    return {"kind": kind, "spec": spec, "scope": _scope(hosts), **fields}


def _scope(text: str) -> dict[str, Any]:
    if text in {"all", "one"}:
        return {"hosts": text}
    if text.endswith("%"):
        if not text[:-1].isdecimal():
            raise UsageError(f"--hosts {text}: a share is 1% to 100%")
        return {"hosts": "percent", "percent": int(text[:-1])}
    return {"hosts": "named", "names": [name for name in text.split(",") if name]}


_KINDS = (preheat_file, preheat_image, delete, sync, collect, convert)


def kinds(*more: click.Option) -> list[click.Command]:
    """A command of each kind, with these options besides; it returns the job, and their values beside it."""
    return [
        click.Command(kind.name, callback=kind.callback, params=[*kind.params, *more], help=kind.help)
        for kind in _KINDS
    ]
