"""``cafs check``: read and verify every byte of an image's indexes and chunks, where they are stored."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cafs.cli.context import Context
from cafs.cli.opened import platform_option
from cafs.cli.units import format_count, format_size
from cafs.errors import IntegrityError

if TYPE_CHECKING:
    from cafs.fetch.check_chunks import Checked

_SHOWN = 50
"""Lines of damage on a terminal; ``--json`` has them all."""


@click.command()
@click.argument("source")
@platform_option
@click.pass_obj
def command(context: Context, source: str, *, platform: str | None) -> None:
    """Read and verify every byte of the converted image SOURCE: indexes, chunks, blobs.

    Nothing is taken from this machine's cache. Says which layer, chunk and offset are damaged; the exit
    code is 3 then.
    """
    # Not at module level: listing commands must not load what speaks to registries.
    import trio  # noqa: PLC0415

    from cafs.fetch.check_image import check_image  # noqa: PLC0415
    from cafs.oci.descriptor import parse_platform  # noqa: PLC0415

    wanted = parse_platform(platform) if platform else None
    with tempfile.TemporaryDirectory(prefix="cafs-check-") as scratch, context.progress() as progress:
        checked = trio.run(check_image, source, context.settings, wanted, Path(scratch), progress)
    _report(context, source, checked)


def _report(context: Context, source: str, checked: Checked) -> None:
    document = {
        "source": source,
        "layers": checked.layers,
        "chunks": checked.chunks,
        "frame_bytes": checked.frame_bytes,
        "damages": [asdict(damage) for damage in checked.damages],
    }
    looked_at = (
        f"{format_count(checked.layers, 'layer')}, {format_count(checked.chunks, 'chunk')}, "
        f"{format_size(checked.frame_bytes)}"
    )
    if not checked.damages:
        context.result(document, f"{source}: sound ({looked_at})")
        return
    lines = [str(damage) for damage in checked.damages[:_SHOWN]]
    if len(checked.damages) > _SHOWN:
        lines.append(f"and {len(checked.damages) - _SHOWN} more")
    context.result(document, "\n".join(lines))
    raise IntegrityError(
        f"{source} is damaged in {format_count(len(checked.damages), 'place')} ({looked_at})"
    )
