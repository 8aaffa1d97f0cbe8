"""``cafs diff``: what two converted images share."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cafs.cli.context import Context
from cafs.cli.opened import platform_option, with_image
from cafs.cli.plot import text_table
from cafs.cli.units import format_size

if TYPE_CHECKING:
    from cafs.fetch.open_image import OpenImage
    from cafs.index.sharing import Shared, Sharing


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@platform_option
@click.pass_obj
def command(context: Context, first: str, second: str, *, platform: str | None) -> None:
    """Tell what the converted images A and B share: layers, files, chunks, bytes.

    Content counts, not names or times. Only the indexes are read. A file counts as shared when the same
    chunks hold it in both; what is stored for B beyond A is the honest measure of its cost.
    """
    from cafs.fetch.open_image import open_image  # noqa: PLC0415 -- only when it is called
    from cafs.oci.descriptor import parse_platform  # noqa: PLC0415 -- as above

    async def use(image: OpenImage) -> None:
        from cafs.index.sharing import compare  # noqa: PLC0415 -- loads numpy

        wanted = parse_platform(platform) if platform else None
        async with await open_image(second, context.settings, wanted) as other:
            sharing = compare([a.index for a in image.layers], [b.index for b in other.layers])
        context.result({"a": first, "b": second, **asdict(sharing)}, _text(first, second, sharing))

    with_image(first, context.settings, platform, use)


def _text(first: str, second: str, sharing: Sharing) -> str:
    rows = [["", "A", "B", "shared", "of B"]]
    rows += _rows("layers", sharing.layers) + _rows("files", sharing.files)
    rows += _rows("chunks", sharing.chunks)
    stored = sharing.stored
    rows.append(["  stored", *_bytes(stored)])
    new_bytes = stored.second.size_bytes - stored.both.size_bytes
    return "\n".join(
        [
            f"A: {first}",
            f"B: {second}",
            "",
            text_table(rows),
            "",
            f"B needs {format_size(max(new_bytes, 0))} in "
            f"{stored.second.count - stored.both.count:,} chunks that A has not",
        ]
    )


def _rows(name: str, shared: Shared) -> list[list[str]]:
    counts = [shared.first.count, shared.second.count, shared.both.count]
    part = _percent(shared.both.count, shared.second.count)
    return [[name, *(f"{count:,}" for count in counts), part], ["  bytes", *_bytes(shared)]]


def _bytes(shared: Shared) -> list[str]:
    sizes = [shared.first.size_bytes, shared.second.size_bytes, shared.both.size_bytes]
    return [*map(format_size, sizes), _percent(sizes[2], sizes[1])]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
