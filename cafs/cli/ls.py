"""``cafs ls``: list files of a converted image, without mounting it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from cafs.cli.context import Context
from cafs.cli.opened import merged_tree, platform_option, with_image

if TYPE_CHECKING:
    from cafs.fetch.open_image import OpenImage
    from cafs.index.merge import MergedTree, Stack


@click.command()
@click.argument("source")
@click.argument("path", default="/")
@click.option("-l", "--long", "long", is_flag=True, help="Mode, links, owner, size, time (UTC), link target.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below PATH, with paths from the root.")
@platform_option
@click.pass_obj
def command(
    context: Context, source: str, path: str, *, long: bool, recursive: bool, platform: str | None
) -> None:
    """List what lies at PATH in the image SOURCE: all layers merged, as a container would see it.

    Symlinks on the way are followed inside the image; one at the end only if PATH ends with a slash.
    """
    wanted = os.fsencode(path)

    async def use(image: OpenImage) -> None:
        tree = merged_tree(image)
        found = _find(tree, wanted, recursive=recursive)
        _print(context, tree, found, long=long)

    with_image(source, context.settings, platform, use)


def _find(tree: MergedTree, path: bytes, *, recursive: bool) -> list[tuple[bytes, Stack]]:
    from cafs.index.browse import resolve, walk  # noqa: PLC0415 -- loads blake3 and more by way of fetch

    top = resolve(tree, path, follow_last=path.endswith(b"/"))
    if not tree.inode(top).is_directory:
        return [(path, top)]
    if recursive:
        start = path.strip(b"/")
        return [(at, stack) for at, stack in walk(tree, top, start) if at != start]
    return tree.children(top)


def _print(context: Context, tree: MergedTree, found: list[tuple[bytes, Stack]], *, long: bool) -> None:
    from cafs.cli.listing import Line, describe, format_lines  # noqa: PLC0415 -- as above
    from cafs.index.browse import show_name  # noqa: PLC0415 -- as above

    if context.json:
        context.result([describe(tree, name, stack) for name, stack in found], "")
    elif long:
        context.result(None, format_lines([Line.of(tree, name, stack) for name, stack in found]))
    else:
        context.result(None, "\n".join(show_name(name) for name, _ in found))
