"""``cafs peer``: the node's peer, in the foreground."""

from __future__ import annotations

import logging
from dataclasses import replace

import click

from cafs.cli.context import Context
from cafs.cli.listening import parse_listen
from cafs.core.settings import Settings


@click.command()
@click.option("--seed", is_flag=True, help="Be a seed: go to the source first for others.")
@click.option("--listen", metavar="HOST:PORT", help="Serve other hosts here.  [default: peer_listen]")
@click.option("--metrics", metavar="HOST:PORT",
              help="Serve Prometheus metrics there; :PORT is on loopback.")  # fmt: skip
@click.pass_obj
def command(context: Context, seed: bool, listen: str | None, metrics: str | None) -> None:
    """Exchange content with other hosts, and bring chunks to this node's mounts.

    Runs until SIGTERM. SIGHUP reads limits and quotas from the configuration again. Mounts use it when
    it is there, and go straight to their registries when it is not.
    """
    settings = context.settings
    if listen is not None:
        settings = replace(settings, peer_listen=listen)
    place = parse_listen(metrics, "--metrics") if metrics else None
    logging.getLogger("cafs").setLevel(logging.DEBUG if context.debug else logging.INFO)
    import trio  # noqa: PLC0415 - only this command serves

    from cafs.p2p.program import Options, run  # noqa: PLC0415

    def reload() -> Settings:
        return Context(config=context.config, flags=context.flags).settings

    trio.run(run, settings, Options(seed, reload, context.note, place))
