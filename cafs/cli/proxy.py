"""``cafs proxy``: the HTTP proxy and the mirrors, as a program of their own."""

from __future__ import annotations

import logging

import click

from cafs.cli.context import Context
from cafs.cli.listening import parse_listen


@click.command()
@click.option("--listen", default="127.0.0.1:65001", show_default=True, metavar="[HOST]:PORT",
              help="Serve clients here; without HOST on this machine only.")  # fmt: skip
@click.option("--no-p2p", is_flag=True, help="Fetch content straight from its origin, also when a peer runs.")
@click.option("--metrics", metavar="[HOST]:PORT",
              help="Serve Prometheus metrics there; without HOST on this machine only.")  # fmt: skip
@click.pass_obj
def command(context: Context, listen: str, no_p2p: bool, metrics: str | None) -> None:
    """Let other programs in: a forward proxy (http_proxy), and a mirror of registries.

    Content comes through this node's peer when one runs, otherwise straight from its origin. What goes
    which way is set by proxy_rules and the other proxy_* settings: docs/proxy.md. Runs until SIGTERM.
    """
    settings = context.settings
    host, port = parse_listen(listen)
    place = parse_listen(metrics, "--metrics") if metrics else None
    logging.getLogger("cafs").setLevel(logging.DEBUG if context.debug else logging.INFO)
    import trio  # noqa: PLC0415 - only this command serves

    from cafs.proxy.program import Options, run  # noqa: PLC0415

    trio.run(run, settings, Options(host, port, p2p=not no_p2p, metrics=place), context.note)
