"""``cafs scheduler``: decides who feeds whom."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cafs.cli.context import Context
from cafs.cli.listening import parse_listen
from cafs.errors import StateError, UsageError

if TYPE_CHECKING:
    from cafs.core.scheduling.limits import Limits
    from cafs.core.settings import Settings

_PORT = 65010


@click.command()
@click.option("--listen", default=f"127.0.0.1:{_PORT}", show_default=True, metavar="HOST:PORT",
              help="Serve hosts there; port 0 takes a free one.")  # fmt: skip
@click.option("--metrics", metavar="HOST:PORT",
              help="Serve Prometheus metrics there; :PORT is on loopback.")  # fmt: skip
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="This scheduler's certificate (PEM).")  # fmt: skip
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Its key.")  # fmt: skip
@click.option("--tls-ca", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Hosts need a certificate of this authority, good for the address they name.")  # fmt: skip
@click.pass_obj
def command(  # noqa: PLR0917  click calls it, by keyword
    context: Context,
    listen: str,
    metrics: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
) -> None:
    """Tell peers whom to ask for what, and who goes to the source.

    Runs until SIGTERM. Keeps no tasks: after a restart hosts tell what they hold. Several schedulers need not
    know each other: peers share tasks among those they are given.
    """
    if (tls_cert is None) != (tls_key is None) or (tls_ca is not None and tls_cert is None):
        raise UsageError("--tls-cert and --tls-key go together, and --tls-ca needs both")
    host, port = parse_listen(listen)
    place = parse_listen(metrics, "--metrics") if metrics else None
    limits = _limits(context.settings)
    logging.getLogger("cafs").setLevel(logging.DEBUG if context.debug else logging.INFO)
    try:
        # Loads grpc, which nothing else needs.
        import asyncio  # noqa: PLC0415

        from cafs.daemon.grpc_server import Tls  # noqa: PLC0415
        from cafs.scheduler.manager import Managers  # noqa: PLC0415
        from cafs.scheduler.program import Options, run  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[snapshotter]'") from e
    tls = Tls(certificate=tls_cert, key=tls_key, authority=tls_ca) if tls_cert and tls_key else None
    managers = None
    if context.settings.managers:
        managers = Managers(
            addresses=context.settings.managers,
            kept_in=context.settings.cache_dir / "scheduler",
            reached_at=context.settings.scheduler_address,
            idc=context.settings.idc,
            location=context.settings.location,
        )
    options = Options(host=host, port=port, limits=limits, tls=tls, metrics=place, managers=managers)
    asyncio.run(run(options))


def _limits(settings: Settings) -> Limits:
    from cafs.core.scheduling.limits import Limits  # noqa: PLC0415

    return Limits(
        alive_every_s=settings.scheduler_alive_s,
        gone_after_s=3 * settings.scheduler_alive_s,
        parents_per_peer=settings.scheduler_parents,
        sample=max(48, settings.scheduler_parents * 3 // 2),
        source_peers=settings.scheduler_source_peers,
        seed_patience_s=settings.scheduler_seed_patience_s,
        task_idle_s=settings.scheduler_task_idle_s,
        shun_corrupt_s=settings.scheduler_shun_s,
    )
