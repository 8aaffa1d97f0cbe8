"""``cafs ca``: certificates for mTLS between hosts, and the authority for the proxy's interception."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.errors import UsageError

_CA_DAYS, _DAYS = 3650, 365
_MOST_DAYS = 36500


@click.group()
def command() -> None:
    """Make certificates: for mTLS between scheduler, seeds and peers, and for the proxy's interception."""


@command.command(short_help="Make an authority in DIR.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--name", default="CAFS", show_default=True, help="What the authority is called.")
@click.option("--days", default=_CA_DAYS, show_default=True, type=click.IntRange(1, _MOST_DAYS),
              help="Valid for so long.")  # fmt: skip
@click.pass_obj
def init(context: Context, directory: Path, name: str, days: int) -> None:
    """Make an authority in DIR: its certificate ca.pem, and its key ca.key (0600).

    Whoever holds the key can issue certificates that all hosts believe: keep DIR where you issue, and
    copy only ca.pem. Use another one for interception than for mTLS.
    """
    from cafs.certificates.authority import CA_CERTIFICATE, CA_KEY, Authority  # noqa: PLC0415

    if not name.strip() or not name.isprintable():
        raise UsageError("--name must be printable")
    authority = Authority.make(name, _now(), days)
    authority.save(directory)
    paths = {"certificate": str(directory / CA_CERTIFICATE), "key": str(directory / CA_KEY)}
    until = authority.identity.certificate.not_valid_after_utc
    context.result(
        {**paths, "name": name, "valid_until": until.isoformat(), "sha256": authority.identity.fingerprint},
        f"{paths['certificate']}  for whoever verifies\n{paths['key']}  stays here\n"
        f"valid until {until:%Y-%m-%d}, sha256 {authority.identity.fingerprint}",
    )


@command.command(short_help="Issue a certificate, signed by the authority in DIR.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.argument("name")
@click.option("--address", "addresses", multiple=True, metavar="IP|NAME",
              help="An IP address or DNS name that it is good for; may be repeated.")  # fmt: skip
@click.option("--days", default=_DAYS, show_default=True, type=click.IntRange(1, _MOST_DAYS),
              help="Valid for so long, at most as long as the authority.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="Write NAME.pem and NAME.key there.  [default: DIR]")  # fmt: skip
@click.pass_obj
def issue(  # noqa: PLR0917 - click calls it, by keyword
    context: Context, directory: Path, name: str, addresses: tuple[str, ...], days: int, out: Path | None
) -> None:
    """Issue NAME.pem and NAME.key, signed by the authority in DIR, for a scheduler, a seed or a peer.

    Hosts verify each other's addresses: name every one under which this service is reached.
    """
    from cafs.certificates.authority import Authority, check_name, save_identity  # noqa: PLC0415

    if not addresses:
        raise UsageError("name at least one --address under which the service is reached")
    target = out or directory
    identity = Authority.load(directory).issue(check_name(name), addresses, _now(), days)
    certificate, key = target / f"{name}.pem", target / f"{name}.key"
    save_identity(identity, certificate, key)
    until = identity.certificate.not_valid_after_utc
    context.result(
        {"certificate": str(certificate), "key": str(key), "addresses": list(addresses),
         "valid_until": until.isoformat(), "sha256": identity.fingerprint},
        f"{certificate}\n{key}\nfor {', '.join(addresses)}; valid until {until:%Y-%m-%d}",
    )  # fmt: skip


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
