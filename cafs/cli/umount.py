"""``cafs umount``: unmount an image and end its server."""

from __future__ import annotations

from pathlib import Path

import click

from cafs.cli.context import Context


@click.command()
@click.argument("directory", type=Path)
@click.option("--force", is_flag=True, help="Take it away even from those who still use it.")
@click.pass_obj
def command(context: Context, directory: Path, force: bool) -> None:
    """Unmount the image at DIRECTORY and wait until its server has ended."""
    from cafs.node.umount import find_target, unmount_image  # noqa: PLC0415  see cafs.cli.mount

    target = find_target(context.settings.run_dir, directory)
    unmount_image(context.settings.run_dir, target, force=force)
    if context.json:
        context.result({"directory": str(target)}, "")
    else:
        context.note(f"{target} is unmounted")
