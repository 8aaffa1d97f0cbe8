"""The tables that the demo ends with."""

from __future__ import annotations

from rich.table import Table

from demo.shared_start import Together
from demo.start import Start

_MB = 1_000_000


def lazy_beside_eager(
    title: str, columns: tuple[str, str], image_bytes: int, lazy: Start, eager: Start
) -> Table:
    """One lone host: what a start took in both ways."""
    table = Table(title=title)
    for column in ("", *columns, "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    size = f"{image_bytes / _MB:.1f} MB"
    table.add_row("image size (compressed)", size, size, "")
    rows = (
        ("bytes fetched", lazy.received_bytes / _MB, eager.received_bytes / _MB, "{:.1f} MB"),
        ("root filesystem there after", lazy.ready_s, eager.ready_s, "{:.2f} s"),
        ("program answered after", lazy.seconds, eager.seconds, "{:.2f} s"),
    )
    for name, mine, theirs, form in rows:
        table.add_row(name, form.format(mine), form.format(theirs), f"{theirs / mine:.1f}x less")
    return table


def where_bytes_came_from(title: str, done: str, together: Together) -> Table:
    """Several hosts: what came from where.

    Args:
        title: Above.
        done: What each host's time is until.
        together: What to show.
    """
    table = Table(title=title)
    for column in ("", done, "from the origin", "from the seed", "from peers"):
        table.add_column(column, justify="left" if not column else "right")
    for arrived in together.hosts:
        came = arrived.came
        seconds = "" if arrived.seconds is None else f"{arrived.seconds:.2f} s"
        shown = (f"{count / _MB:.1f} MB" for count in (came.origin, came.seed, came.peers))
        table.add_row(arrived.name, seconds, *shown)
    sums = [
        sum(getattr(arrived.came, name) for arrived in together.hosts) for name in ("origin", "seed", "peers")
    ]
    table.add_section()
    table.add_row("in all", "", *(f"{count / _MB:.1f} MB" for count in sums))
    return table
