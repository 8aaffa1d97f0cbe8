"""``python -m bench [NAME...]``: run the cases, print their tables, bring ``docs/benchmarks.md`` up to date.

Exit codes: 0 all ran (met or not: the page says which); 1 a case could not run; 2 an unknown name.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from bench.cases import CASES
from bench.machine import machine_line
from bench.place import Place
from bench.report import PAGE_ROUNDS, Result, may_write_page, write_json, write_page
from demo.image import cache_directory
from demo.mount_namespace import enter_own_namespace
from demo.process import DemoError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def main() -> int:
    listing = "\n".join(f"  {name:16} {line}" for name, line in CASES.items())
    parser = argparse.ArgumentParser(
        "bench", epilog=f"cases:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases to run; all when none is named")
    parser.add_argument(
        "--rounds",
        type=int,
        default=PAGE_ROUNDS,
        help=f"samples of each contender (default {PAGE_ROUNDS}; with fewer the page is left as it is)",
    )
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in CASES]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)} (known: {', '.join(CASES)})")
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        enter_own_namespace("bench")
    except DemoError as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    write = may_write_page(arguments.rounds) and not arguments.no_write
    return _run(arguments.names or list(CASES), arguments.rounds, write=write)


def _run(names: list[str], rounds: int, *, write: bool) -> int:
    console, failed = Console(), False
    for name in names:
        console.rule(f"{name}: {CASES[name]}")
        began = time.monotonic()
        try:
            result = _one(name, rounds, console)
        except DemoError as e:
            console.print(f"bench: {name}: {e}", style="red", highlight=False, markup=False)
            failed = True
            continue
        _show(console, result, time.monotonic() - began)
        machine = machine_line()
        write_json(cache_directory() / "bench" / "results.json", [result], machine)
        if write:
            write_page(PAGE, [result], machine)
    if not write:
        console.print(f"{PAGE.name} is as it was", highlight=False)
    return 1 if failed else 0


def _one(name: str, rounds: int, console: Console) -> Result:
    kept = cache_directory() / "bench"
    kept.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="run-", dir=kept))
    try:
        result: Result = importlib.import_module(f"bench.cases.{name}").run_case(Place(path, rounds, console))
    finally:
        # Never through a mount that did not go away: rmtree would walk it.
        shutil.rmtree(path, ignore_errors=True)
    return result


def _show(console: Console, result: Result, seconds: float) -> None:
    table = Table(title=f"{result.title} ({seconds:.0f} s)", title_justify="left")
    for column in ("what", "CAFS", "rival", "ratio", "target", "met"):
        table.add_column(column)
    for row in result.rows:
        met = {True: "[green]yes", False: "[bold red]no", None: ""}[row.met]
        table.add_row(row.what, row.ours, row.rival, row.ratio, row.target, met)
    console.print(table)


def _interrupted(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends as Ctrl-C does: through every context's own end."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
