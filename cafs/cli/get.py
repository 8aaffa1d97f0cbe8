"""``cafs get``: download a file, a directory or an artifact."""

from __future__ import annotations

import re
from pathlib import Path

import click

from cafs.cli.context import Context
from cafs.cli.units import format_count, format_size, parse_size
from cafs.core.digest import parse_digest
from cafs.core.swarm.priorities import HIGHEST, USUAL
from cafs.errors import UsageError

_HEADER = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})?")


@click.command()
@click.argument("url")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Write here; an existing directory gets a file of the same name.")  # fmt: skip
@click.option("--digest", metavar="sha256:HEX",
              help="The content must have it, or nothing is kept; of a --range it is a name.")  # fmt: skip
@click.option("--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'",
              help="Sent to the origin only, by HTTP.")  # fmt: skip
@click.option("--range", "wanted", metavar="FIRST-[LAST]", help="These bytes only, counted from 0.")
@click.option("--recursive", "-r", is_flag=True, help="All files below URL, into the directory FILE.")
@click.option("--tag", default="", help="Keeps contents apart that have the same address.")
@click.option("--application", default="", help="The same.")
@click.option("--filter", "filtered", multiple=True, metavar="NAME",
              help="A query parameter that makes no other content, such as a signature.")  # fmt: skip
@click.option("--priority", type=click.IntRange(0, HIGHEST), default=USUAL, show_default=True,
              help="Of the download: 0 refused, 1 from other hosts only, 2 not from seeds, 3 usual, 6 most"
              " urgent.")  # fmt: skip
@click.option("--rate-limit", metavar="SIZE",
              help="Bytes a second, as in 10MiB; a peer fetches no faster, either.")  # fmt: skip
@click.option(
    "--anonymous", is_flag=True, help="Ask s3://, gs:// and hf:// without credentials; all may share it."
)
@click.option("--no-p2p", is_flag=True, help="Straight from the origin, also when a peer runs.")
@click.option("--peer", type=click.Path(path_type=Path), metavar="SOCKET",
              help="The peer's socket.  [default: RUN_DIR/peer/peer.sock]")  # fmt: skip
@click.pass_obj
def command(  # noqa: PLR0917 - click calls it, by keyword
    context: Context, url: str, output: Path, digest: str | None, headers: tuple[str, ...],
    wanted: str | None, recursive: bool, tag: str, application: str, filtered: tuple[str, ...], priority: int,
    rate_limit: str | None, anonymous: bool, no_p2p: bool, peer: Path | None,
) -> None:  # fmt: skip
    """Download URL: by P2P through this node's peer, or straight when none runs.

    URL is http(s)://, docker://HOST/REPO:TAG (the files of an OCI artifact), docker://HOST/REPO@DIGEST (a
    blob), s3://, gs://, hf:// and what else fsspec has drivers for (pip install 'cafs[sources]'), file:// or
    a path. An interrupted download leaves FILE.part; the same command goes on from there if the source can
    prove that the content is the same. Files of a directory or artifact that are whole and the same stay.
    """
    first, last = _parse_range(wanted)
    import trio  # noqa: PLC0415 - see cafs.cli.main

    from cafs.download.get import Order, get  # noqa: PLC0415

    order = Order(
        url=url if "://" in url else Path(url).absolute().as_uri(),
        output=output,
        digest=parse_digest(digest) if digest else None,
        headers=tuple(parse_header(header) for header in headers),
        first_byte=first,
        last_byte=last,
        tag=tag,
        application=application,
        filtered_query=tuple(filtered),
        priority=priority,
        bytes_per_s=_parse_rate(rate_limit),
        recursive=recursive,
        anonymous=anonymous,
        p2p=not no_p2p,
        node_socket=peer,
    )
    with context.progress() as progress:
        got = trio.run(get, context.settings, order, progress, strict_exception_groups=True)
    total = sum(file.content_bytes for file in got.files)
    way = "by P2P" if got.by_peer else "straight"
    context.result(
        {
            "files": [
                {"path": str(f.path), "bytes": f.content_bytes, "received_bytes": f.received_bytes}
                for f in got.files
            ],
            "bytes": total,
            "p2p": got.by_peer,
        },
        "" if context.quiet else f"{format_count(len(got.files), 'file')}, {format_size(total)}, {way}",
    )


def _parse_range(text: str | None) -> tuple[int, int | None]:
    if text is None:
        return 0, None
    found = _RANGE.fullmatch(text.removeprefix("bytes="))
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        raise UsageError(f"--range {text}: expected FIRST-LAST or FIRST-")
    return int(found[1]), int(found[2]) if found[2] else None


def parse_header(text: str) -> tuple[str, str]:
    """``NAME: VALUE``; the name in small letters.

    Raises:
        UsageError: it is none. What it says is not repeated: it may be a credential.
    """
    found = _HEADER.fullmatch(text)
    if found is None:
        raise UsageError("--header: expected 'NAME: VALUE'")
    return found[1].lower(), found[2].strip()


def _parse_rate(text: str | None) -> float | None:
    if text is None:
        return None
    rate = parse_size(text.lower().removesuffix("/s"))
    if rate < 1:
        raise UsageError(f"--rate-limit {text}: must be at least 1")
    return float(rate)
