"""How soon a mount of very many files can be listed, and what its server holds in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.measure import clock, interleave, median
from bench.memory import resident_bytes
from bench.place import Place, read_everything
from bench.report import Result, Row, format_seconds
from bench.trees import small_tree, tar_of
from demo.cafs_command import CafsHome
from demo.process import run

READY_S = 0.150
MEMORY_BYTES = 120 << 20
DRIVERS = ("erofs", "fuse")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of a mount's processes."""

    total: int
    own: int
    """Of these, what is not a page of a mapped file: the index and the chunk store are mapped."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One mount."""

    seconds: float
    listed: Memory
    """After ``ls -R``."""
    read: Memory
    """After every file was read, too."""


def run_case(place: Place) -> Result:
    source, _ = place.convert(f"tar:{tar_of(small_tree())}", "converted")
    # The first mount brings the index here and checks it; that is not what is measured.
    home = place.home()
    with home.mounted(source, place.path / "first"):
        pass
    turns = {driver: partial(_sample, home, source, place.path / driver, driver) for driver in DRIVERS}
    samples = interleave(turns, place.rounds)
    rows = [row for driver in DRIVERS for row in _rows(driver, samples[driver])]
    return Result(
        "mount_ready",
        "Mount of 100,000 files until `ls -R` may begin",
        "From the start of `cafs mount` until it has returned and the root directory was listed once,"
        " index local and checked, page cache warm. Memory is the largest resident set of the mount's"
        " processes, supervisor included; pages of mapped files (index, chunk store) count, *own* is"
        " without them.",
        tuple(rows),
        {driver: [sample.seconds for sample in taken] for driver, taken in samples.items()},
    )


def _rows(driver: str, samples: list[Sample]) -> list[Row]:
    ready = [sample.seconds for sample in samples]
    return [
        Row(f"{driver}: ready", format_seconds(ready), "", "", "under 150 ms", median(ready) < READY_S),
        _memory_row(f"{driver}: memory after ls -R", [sample.listed for sample in samples]),
        _memory_row(f"{driver}: memory after reading all", [sample.read for sample in samples]),
    ]


def _memory_row(what: str, held: list[Memory]) -> Row:
    most = max(held, key=lambda memory: memory.total)
    return Row(
        what,
        f"{most.total / (1 << 20):.0f} MiB (own {most.own / (1 << 20):.0f})",
        "",
        "",
        f"under {MEMORY_BYTES >> 20} MiB",
        most.total < MEMORY_BYTES,
    )


def _sample(home: CafsHome, source: str, root: Path, driver: str) -> Sample:
    root.mkdir(exist_ok=True)
    seconds = clock(lambda: _mount_and_list(home, source, root, driver))
    try:
        run(["sh", "-c", 'ls -R "$0" >/dev/null', root])
        listed = _memory(home)
        read_everything(root)
        return Sample(seconds, listed, _memory(home))
    finally:
        home.call("umount", root)


def _mount_and_list(home: CafsHome, source: str, root: Path, driver: str) -> None:
    home.call("mount", "--driver", driver, source, root)
    next(root.iterdir())


def _memory(home: CafsHome) -> Memory:
    """Of all processes that hold a mount of ``home``."""
    pids = {int(path.read_text()) for path in (home.place / "run").glob("*/*.pid")}
    return Memory(
        sum(resident_bytes(pid) for pid in pids), sum(resident_bytes(pid, "RssAnon") for pid in pids)
    )
