"""``cafs cat``: write a file of a converted image to standard output; fetches only its chunks."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING

import click

from cafs.cli.context import Context
from cafs.cli.opened import merged_tree, platform_option, with_image
from cafs.errors import UsageError

if TYPE_CHECKING:
    from cafs.fetch.open_image import OpenImage


@click.command()
@click.argument("source")
@click.argument("path")
@platform_option
@click.pass_obj
def command(context: Context, source: str, path: str, *, platform: str | None) -> None:
    """Write the file at PATH in the image SOURCE to standard output. Symlinks are followed in the image."""
    if context.json:
        raise UsageError("cat writes the file as it is: leave --json out")

    async def use(image: OpenImage) -> None:
        await _cat(context, image, os.fsencode(path))

    with_image(source, context.settings, platform, use)


async def _cat(context: Context, image: OpenImage, path: bytes) -> None:
    from cafs.fetch.journal import Journal  # noqa: PLC0415 -- only when a file is read
    from cafs.fetch.limits import FetchLimits  # noqa: PLC0415 -- as above
    from cafs.fetch.read_file import copy_file  # noqa: PLC0415 -- as above
    from cafs.fetch.service import ChunkService  # noqa: PLC0415 -- as above
    from cafs.index.browse import resolve, show_name  # noqa: PLC0415 -- as above

    tree = merged_tree(image)
    top = resolve(tree, path, follow_last=True)[0]
    reader = tree.reader(top.layer)
    if not stat.S_ISREG(reader.mode(top.nid)):
        raise UsageError(f"{show_name(path)} is not a regular file")
    layer = image.layers[top.layer]
    limits = FetchLimits.from_settings(context.settings)
    async with ChunkService(None, limits, Journal(None, warns=False)) as service:
        chunks = service.add_layer(layer.index, [layer.source], layer.diff_id)
        await copy_file(chunks, reader, top.nid, sys.stdout.buffer)
    sys.stdout.buffer.flush()
