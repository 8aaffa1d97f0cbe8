"""``cafs snapshotter``: containerd's snapshotter, as a proxy plugin."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.cli.listening import parse_listen
from cafs.cli.pull_errand import SOCKET_NAME
from cafs.containerd.setup import usual_address, usual_root
from cafs.control_socket.protocol import usual_socket
from cafs.errors import StateError, UsageError


@click.command()
@click.option("--address", type=click.Path(path_type=Path), metavar="SOCKET",
              help="Serve containerd here.  [default: RUN_DIR/snapshotter.sock]")  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Snapshots are kept here; short, its length counts for each layer."
              "  [default: CACHE_DIR/s]")  # fmt: skip
@click.option("--mountd", type=click.Path(path_type=Path), metavar="SOCKET",
              help="The mount server's control socket.  [default: RUN_DIR/mountd/mountd.sock]")  # fmt: skip
@click.option("--cri-proxy", type=click.Path(path_type=Path), metavar="[SOCKET]", is_flag=False,
              flag_value=Path("/run/containerd/containerd.sock"),
              help="Serve CRI's image service too and pass it on to containerd at SOCKET, so that pull"
              " secrets reach the mount server.  [usual: /run/containerd/containerd.sock]")  # fmt: skip
@click.option("--metrics", metavar="HOST:PORT",
              help="Serve Prometheus metrics there, of this and the mount server; :PORT is on loopback.",
              )  # fmt: skip
@click.option("--print-config", is_flag=True, help="Print the lines for containerd's config.toml, and end.")
@click.option("--containerd", "release", metavar="RELEASE",
              help="For --print-config: whose, such as 1.7 or 2.1.  [default: the installed one]",
              )  # fmt: skip
@click.pass_obj
def command(  # noqa: PLR0917  click calls it, by keyword
    context: Context,
    address: Path | None,
    root: Path | None,
    mountd: Path | None,
    cri_proxy: Path | None,
    metrics: str | None,
    print_config: bool,
    release: str | None,
) -> None:
    """Serve containerd: converted images start lazily, all others as with overlayfs.

    Runs until SIGTERM, and needs 'cafs mountd' for lazy layers; without it every image goes the ordinary way.
    Keeps a process ready in RUN_DIR that does the work of 'cafs pull'.
    """
    settings = context.settings
    address = (address or usual_address(settings.run_dir)).absolute()
    root = (root or usual_root(settings.cache_dir)).absolute()
    if print_config:
        _print_config(context, release, address, root)
        return
    if ":" in str(root) or "," in str(root):
        raise UsageError(f"--root {root}: overlayfs takes no colon and no comma in a path")
    if os.geteuid() != 0:
        raise StateError("cafs snapshotter mounts filesystems: run it as root")
    logging.getLogger("cafs").setLevel(logging.DEBUG if context.debug else logging.INFO)
    try:
        # Loads grpc, which nothing else needs.
        import asyncio  # noqa: PLC0415

        from cafs.cli.ready_pulls import ReadyPulls  # noqa: PLC0415
        from cafs.daemon.service_manager import take_handed_over  # noqa: PLC0415
        from cafs.snapshotter.program import Options, run  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[snapshotter]'") from e
    options = Options(
        address=address,
        root=root.resolve(),
        mountd=(mountd or usual_socket(settings.run_dir)).absolute(),
        containerd=cri_proxy.absolute() if cri_proxy else None,
        metrics=parse_listen(metrics, "--metrics") if metrics else None,
    )
    handed_over = take_handed_over(os.environ)
    pulls = ReadyPulls(settings.run_dir / SOCKET_NAME, handed_over.values())
    try:
        asyncio.run(run(options, handed_over, pulls))
    finally:
        pulls.end()


def _print_config(context: Context, release: str | None, address: Path, root: Path) -> None:
    from cafs.containerd.setup import NEWEST, containerd_lines, parse_release, proxy_table  # noqa: PLC0415
    from cafs.node.containerd_version import installed_release  # noqa: PLC0415
    from cafs.node.machine_facts import kernel_version  # noqa: PLC0415

    of = parse_release(release) if release else installed_release() or NEWEST
    machine = os.uname()
    table = proxy_table(address, root, machine.machine, kernel_version(machine.release))
    lines = containerd_lines(of, table)
    context.result({"containerd": str(of), "config": lines}, lines)
