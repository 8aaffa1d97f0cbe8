"""What the commands that look into converted images have in common: the option, opening, the tree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from cafs.core.settings import Settings
    from cafs.fetch.open_image import OpenImage
    from cafs.index.merge import MergedTree

Result = TypeVar("Result")

platform_option = click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="Which image of several; this machine's is usual."
)


def with_image(
    source: str,
    settings: Settings,
    platform: str | None,
    use: Callable[[OpenImage], Awaitable[Result]],
) -> Result:
    """Open an image, do something with it, close it. Runs trio, so it must not be called from it.

    Raises:
        CafsError: the image cannot be opened, or ``use`` failed.
    """
    # Not at module level: listing commands must not load what speaks to registries.
    import trio  # noqa: PLC0415

    from cafs.fetch.open_image import open_image  # noqa: PLC0415
    from cafs.oci.descriptor import parse_platform  # noqa: PLC0415

    async def run() -> Result:
        wanted = parse_platform(platform) if platform else None
        async with await open_image(source, settings, wanted) as image:
            return await use(image)

    return trio.run(run)


def merged_tree(image: OpenImage) -> MergedTree:
    """The image's layers as one tree.

    Raises:
        NotFoundError: it has none.
    """
    from cafs.index.merge import MergedTree  # noqa: PLC0415
    from cafs.index.reader import ErofsReader  # noqa: PLC0415

    image.check_files()
    return MergedTree([ErofsReader(o.index.metadata, o.index.virtual_bytes) for o in image.layers])
