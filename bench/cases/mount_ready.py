"""How soon a mount of very many files can be listed, and what its server holds in memory."""

from __future__ import annotations

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


def run_case(place: Place) -> Result:
    source, _ = place.convert(f"tar:{tar_of(small_tree())}", "converted")
    memory: dict[str, list[int]] = {driver: [] for driver in DRIVERS}
    # The first mount brings the index here and checks it; that is not what is measured.
    home = place.home()
    with home.mounted(source, place.path / "first"):
        pass

    def sample(driver: str) -> float:
        root = place.path / driver
        root.mkdir(exist_ok=True)
        seconds = clock(lambda: _mount_and_list(home, source, root, driver))
        try:
            run(["sh", "-c", 'ls -R "$0" >/dev/null', root])
            read_everything(root)
            memory[driver].append(_server_bytes(home))
        finally:
            home.call("umount", root)
        return seconds

    samples = interleave({driver: partial(sample, driver) for driver in DRIVERS}, place.rounds)
    rows = []
    for driver in DRIVERS:
        ready, held = samples[driver], max(memory[driver])
        rows += [
            Row(f"{driver}: ready", format_seconds(ready), "", "", "under 150 ms", median(ready) < READY_S),
            Row(
                f"{driver}: server resident",
                f"{held / (1 << 20):.0f} MiB",
                "",
                "",
                f"under {MEMORY_BYTES >> 20} MiB",
                held < MEMORY_BYTES,
            ),
        ]
    return Result(
        "mount_ready",
        "Mount of 100,000 files until `ls -R` may begin",
        "From the start of `cafs mount` until it has returned and the root directory was listed once,"
        " index local and checked, page cache warm. Memory is the server's resident set (supervisor"
        " included, mapped files counted) after `ls -R` and after all 100,000 files were read through the"
        " mount.",
        tuple(rows),
        samples,
    )


def _mount_and_list(home: CafsHome, source: str, root: Path, driver: str) -> None:
    home.call("mount", "--driver", driver, source, root)
    next(root.iterdir())


def _server_bytes(home: CafsHome) -> int:
    """Of all processes that hold a mount of ``home``."""
    pids = {int(path.read_text()) for path in (home.place / "run").glob("*/*.pid")}
    return sum(resident_bytes(pid) for pid in pids)
