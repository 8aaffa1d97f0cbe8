"""``cafs manager``: clusters, their configuration, and who may change it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.cli.listening import parse_listen
from cafs.errors import StateError, UsageError

_SERVICES, _REST = 65003, 65004


@click.command()
@click.option("--listen", default=f"127.0.0.1:{_SERVICES}", show_default=True, metavar="HOST:PORT",
              help="Serve schedulers, seeds and peers there (gRPC); port 0 takes a free one.")  # fmt: skip
@click.option("--rest", default=f"127.0.0.1:{_REST}", show_default=True, metavar="HOST:PORT",
              help="Serve people and programs there (REST).")  # fmt: skip
@click.option("--metrics", metavar="HOST:PORT",
              help="Serve Prometheus metrics there; :PORT is on loopback.")  # fmt: skip
@click.option("--tls-cert", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="This manager's certificate (PEM), for both.")  # fmt: skip
@click.option("--tls-key", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Its key.")  # fmt: skip
@click.option("--tls-ca", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Services need a certificate of this authority, good for their address.")  # fmt: skip
@click.option("--new-admin", is_flag=True,
              help="Print a link for one more administrator, as at the first start.")  # fmt: skip
@click.option("--console/--no-console", default=True, show_default=True,
              help="Serve the web console beside REST, if cafs[console] is installed.")  # fmt: skip
@click.pass_obj
def command(  # noqa: PLR0917  click calls it, by keyword
    context: Context,
    listen: str,
    rest: str,
    metrics: str | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    new_admin: bool,
    console: bool,
) -> None:
    """Keep what operators decide, in SQLite or PostgreSQL (manager_database).

    The first start prints a link at which the first administrator is made. Runs until SIGTERM. Several
    managers on one PostgreSQL work side by side. docs/manager.md
    """
    if (tls_cert is None) != (tls_key is None) or (tls_ca is not None and tls_cert is None):
        raise UsageError("--tls-cert and --tls-key go together, and --tls-ca needs both")
    services, people = parse_listen(listen), parse_listen(rest, "--rest")
    place = parse_listen(metrics, "--metrics") if metrics else None
    settings = context.settings
    logging.getLogger("cafs").setLevel(logging.DEBUG if context.debug else logging.INFO)
    try:
        # Loads the web framework and the database's libraries, which nothing else needs.
        import asyncio  # noqa: PLC0415

        from cafs.daemon.grpc_server import Tls  # noqa: PLC0415
        from cafs.manager.database import parse_database  # noqa: PLC0415
        from cafs.manager.jobs.conversions import Converter  # noqa: PLC0415
        from cafs.manager.oidc.provider import provider_of  # noqa: PLC0415
        from cafs.manager.program import Options, run  # noqa: PLC0415
    except ModuleNotFoundError as e:
        raise StateError(f"{e.name} is missing: pip install 'cafs[manager]'") from e
    url = parse_database(settings.manager_database, settings.cache_dir / "manager" / "manager.db")
    tls = Tls(certificate=tls_cert, key=tls_key, authority=tls_ca) if tls_cert and tls_key else None
    options = Options(
        database=url,
        services=services,
        rest=people,
        tls=tls,
        metrics=place,
        site=settings.manager_site.rstrip("/"),
        provider=provider_of(settings),
        new_admin=new_admin,
        console=console,
        converter=Converter(_convert_command(context), settings.manager_conversions),
        say=context.note,
    )
    asyncio.run(run(options))


def _convert_command(context: Context) -> tuple[str, ...]:
    """``cafs convert`` with our settings, but for the manager's own."""
    flags = [flag for flag in context.flags if not flag.strip().startswith("manager")]
    config = [f"--config={context.config}"] if context.config else []
    return (sys.executable, "-m", "cafs", "convert", *config, *(f"--set={flag}" for flag in flags))
