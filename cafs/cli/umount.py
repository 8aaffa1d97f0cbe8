"""``cafs umount``: unmount an image and end its server."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cafs.cli.context import Context


@click.command()
@click.argument("directory", type=Path)
@click.option("--force", is_flag=True, help="Take it away even from those who still use it.")
@click.pass_obj
def command(context: Context, directory: Path, force: bool) -> None:
    """Unmount the image at DIRECTORY and wait until its server has ended."""
    from cafs.node.umount import unmount_image  # noqa: PLC0415  see cafs.cli.mount

    # Not the directory itself: looking at it would wait for a server that hangs.
    absolute = Path(os.path.abspath(directory))  # noqa: PTH100  unlike Path.absolute it takes away ".."
    target = absolute.parent.resolve() / absolute.name
    unmount_image(context.settings.run_dir, target, force=force)
    if context.json:
        context.result({"directory": str(target)}, "")
    else:
        context.note(f"{target} is unmounted")
