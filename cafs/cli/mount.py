"""``cafs mount``: show an image at a directory at once; its bytes come when they are read."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.errors import UsageError


@click.command()
@click.argument("source", required=False)
@click.argument("directory", required=False, type=Path)
@click.option("--driver", type=click.Choice(["auto", "erofs", "fuse"]), default="auto", show_default=True,
              help="The kernel's EROFS (root), or all through FUSE; auto: EROFS if it can be.")  # fmt: skip
@click.option("--prefetch", type=click.Choice(["none", "profile", "all", "auto"]), default="auto",
              show_default=True,
              help="What to fetch in advance; auto: the profile, and all once much was read.")  # fmt: skip
@click.option("--record", type=click.Path(path_type=Path, dir_okay=False), metavar="PROFILE",
              help="Keep the order of first accesses in this file (see 'cafs profile').")  # fmt: skip
@click.option(
    "--platform", metavar="OS/ARCH[/VARIANT]", help="Which image of several; this machine's is usual."
)
@click.option("--trusted", is_flag=True, help="Honour set-id bits and device nodes of the image (root).")
@click.option(
    "--foreground", is_flag=True, help="Stay until unmounted, log to standard error; Ctrl-C unmounts."
)
@click.pass_obj
def command(  # noqa: PLR0917  click calls it, by keyword
    context: Context,
    source: str | None,
    directory: Path | None,
    driver: str,
    prefetch: str,
    record: Path | None,
    platform: str | None,
    trusted: bool,
    foreground: bool,
) -> None:
    """Mount the image SOURCE at the empty DIRECTORY, lazily. Without arguments: list what is mounted.

    The image must have been converted ('cafs convert'). No daemon is needed: a small server stays with
    the mount until 'cafs umount DIRECTORY'. A killed server is replaced at once, and readers only wait.
    """
    if source is None:
        _list(context)
        return
    if directory is None:
        raise UsageError("where to mount it is missing: cafs mount SOURCE DIRECTORY")
    if trusted and os.geteuid() != 0:
        raise UsageError("--trusted needs root")
    with ExitStack() as keepers:
        keeper = keepers.enter_context(context.take_keeper())
        from cafs.fuse.erofs_mount import ErofsRefusedError  # noqa: PLC0415
        from cafs.node.mount import choose_driver, mount_image, unmount_on_signals  # noqa: PLC0415
        from cafs.node.mount_state import MountRequest  # noqa: PLC0415
        from cafs.oci.reference import absolute_reference  # noqa: PLC0415

        request = MountRequest(
            source=absolute_reference(source),  # the server works in "/"
            target=directory.resolve(),
            driver=choose_driver(driver),
            platform=platform,
            prefetch=prefetch,
            record=record.absolute() if record else None,
            trusted=trusted,
            settings=context.settings,
        )
        try:
            mounted = mount_image(request, keeper, foreground=foreground)
        except ErofsRefusedError:
            if driver != "auto":
                raise
            keeper = keepers.enter_context(context.take_keeper())
            mounted = mount_image(replace(request, driver="fuse"), keeper, foreground=foreground)
        if foreground:
            unmount_on_signals(keeper)
        text = f"{mounted.image} is mounted at {request.target} (driver {mounted.driver})"
        document = {"image": mounted.image, "directory": str(request.target), "driver": mounted.driver,
                    "layers": list(mounted.layers), "state": str(mounted.directory.path)}  # fmt: skip
        if context.json:
            context.result(document, text)
        else:
            context.note(text)
        if foreground:
            keeper.wait()


def _list(context: Context) -> None:
    from cafs.node.mount import list_mounts  # noqa: PLC0415

    mounts = list_mounts(context.settings.run_dir)
    document = [
        {"source": m.source, "directory": str(m.target), "driver": m.driver, "mounted": is_there}
        for m, is_there in mounts
    ]
    gone = ", not mounted: it is starting, or 'cafs umount' ends what is left"
    lines = [f"{m.source} on {m.target} ({m.driver}{'' if is_there else gone})" for m, is_there in mounts]
    context.result(document, "\n".join(lines))
