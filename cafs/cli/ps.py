"""``cafs ps``: the layers that are mounted lazily, whose they are, and how much of them is here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cafs.cli.context import Context
from cafs.cli.units import format_count, format_size
from cafs.control_socket.protocol import usual_socket
from cafs.errors import CafsError, leading_error

_HEADS = ("LAYER", "SIZE", "HERE", "", "COMING", "IMAGES", "CONTAINERS")
_SHOWN = 2
"""Images and containers of a layer that are named; a base layer can have hundreds."""
_DIGEST_LETTERS = 19  # sha256: and twelve


@click.command()
@click.option("--address", "-a", type=click.Path(path_type=Path), default="/run/containerd/containerd.sock",
              show_default=True, envvar="CONTAINERD_ADDRESS", help="containerd's socket.")  # fmt: skip
@click.option("--mountd", type=click.Path(path_type=Path), metavar="SOCKET",
              help="The mount server's control socket.  [default: RUN_DIR/mountd/mountd.sock]")  # fmt: skip
@click.option("--snapshotter", type=click.Path(path_type=Path), metavar="SOCKET",
              help="The snapshotter's socket.  [default: RUN_DIR/snapshotter.sock]")  # fmt: skip
@click.pass_obj
def command(context: Context, address: Path, mountd: Path | None, snapshotter: Path | None) -> None:
    """Show the layers that are mounted lazily: of which images, used by which containers, how much is here.

    HERE counts what needs no registry any more; COMING, chunks that are being fetched at this moment. Works
    as long as the mount server runs; containers are known when containerd and the snapshotter answer too.
    """
    from cafs.control_socket.blocking import BlockingClient  # noqa: PLC0415

    settings = context.settings
    client = BlockingClient(mountd or usual_socket(settings.run_dir), patience_s=30)
    layers, status = client.layers(), client.status()
    users, problem = _find_users(address, snapshotter or settings.run_dir / "snapshotter.sock")
    for layer in layers:
        found = users.get(layer["layer"], [])
        layer["containers"] = [{"namespace": c.namespace, "id": c.id, "image": c.image} for c in found]
    document = {"layers": layers, "containers_known": not problem, "problem": problem, "mountd": status}
    context.result(document, _text(layers, status))
    if problem:
        context.note(f"which containers use them is not known: {problem}")


def _find_users(containerd: Path, snapshotter: Path) -> tuple[Mapping[str, Sequence[Any]], str]:
    """The containers of each layer, or why they are not known."""
    try:
        import trio  # noqa: PLC0415  what follows loads grpc

        from cafs.containerd.layer_users import find_users  # noqa: PLC0415
    except ModuleNotFoundError as e:
        return {}, f"{e.name} is missing: pip install 'cafs[snapshotter]'"
    try:
        return trio.run(find_users, containerd, snapshotter, "cafs"), ""
    except (CafsError, BaseExceptionGroup) as e:
        error = leading_error(e)
        if not isinstance(error, CafsError):
            raise
        return {}, str(error)


def _text(layers: Sequence[Mapping[str, Any]], status: Mapping[str, Any]) -> str:
    rows = [_HEADS, *map(_row, sorted(layers, key=_images))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS) - 1)]
    lines = [
        "  ".join(
            cell.rjust(width) if 0 < column < 5 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, (*widths, 0), strict=True))
        ).rstrip()
        for row in rows
    ]
    here, total = (sum(layer[key] for layer in layers) for key in ("here_bytes", "data_bytes"))
    summary = (
        f"{format_count(len(layers), 'layer')}, {format_size(here)} of {format_size(total)} here;"
        f" mount server {status['server_pid']}, {format_size(status['resident_bytes'])} resident"
    )
    return "\n".join([*(lines if layers else []), summary])


def _row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    here, total = layer["here_bytes"], layer["data_bytes"]
    containers = [f"{found['namespace']}/{found['id'][:12]}" for found in layer["containers"]]
    return (
        layer["layer"][:_DIGEST_LETTERS],
        format_size(total),
        format_size(here),
        f"{here / total:.0%}" if total else "100%",
        str(layer["under_way"] or "-"),
        _some(_images(layer)),
        _some(containers),
    )


def _images(layer: Mapping[str, Any]) -> list[str]:
    return [image["image"] for image in layer["images"]]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "") or "-"
