"""Driver ``fuse`` beside squashfuse and squashfuse_ll, which serve a squashfs of the same tree."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench.measure import Samples, clock, interleave
from bench.place import Place, read_everything, walk
from bench.report import Result, ratio_row
from bench.rivals import make_squashfs, squashfuse
from bench.trees import debian_tree, small_tree, tar_of
from demo.cold import drop_caches
from demo.image import debian_python

FAST, LOW_LEVEL = "squashfuse", "squashfuse_ll"
Mounter = Callable[[], AbstractContextManager[Path]]


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    rows, samples = [], Samples()
    for name, source, tree in (
        ("100,000 files", f"tar:{tar_of(small_tree())}", small_tree()),
        ("Debian", f"oci:{layout}:v1", debian_tree()),
    ):
        mounters = _mounters(place, name.split()[-1], source, tree)
        turns = {who: partial(_sample, mounter) for who, mounter in mounters.items()}
        found = interleave(turns, place.rounds)
        for number, what in enumerate(("cold walk", "warm walk", "cold read of everything")):
            times = {who: [sample[number] for sample in taken] for who, taken in found.items()}
            place.say(f"{name}, {what}: {times}")
            rows.append(ratio_row(f"{what}, {name}", times["cafs"], (FAST, times[FAST]), 1))
            rows.append(ratio_row(f"{what}, {name}", times["cafs"], (LOW_LEVEL, times[LOW_LEVEL]), 1.5))
            samples |= {f"{what}, {name}, {who}": values for who, values in times.items()}
    return Result(
        "fuse_driver",
        "Driver `fuse`",
        "`find -ls` right after mounting with a cold page cache, the same again, and after another cold"
        " mount `tar c` of everything; chunks in the store. Rivals serve a squashfs (zstd -3) of the same"
        " tree with their defaults.",
        tuple(rows),
        samples,
    )


def _mounters(place: Place, name: str, source: str, tree: Path) -> dict[str, Mounter]:
    converted, _ = place.convert(source, name)
    home = place.filled(converted, f"{name}-home", "fuse")
    image = make_squashfs(tree, place.path / f"{name}.squashfs")
    root = place.path / f"{name}-root"
    return {
        "cafs": lambda: home.mounted(converted, root, ["--driver", "fuse"]),
        FAST: lambda: squashfuse(FAST, image, root),
        LOW_LEVEL: lambda: squashfuse(LOW_LEVEL, image, root),
    }


def _sample(mounter: Mounter) -> tuple[float, float, float]:
    """Seconds of a cold walk, a warm walk and a cold read."""
    drop_caches()
    with mounter() as root:
        drop_caches()
        cold, warm = clock(lambda: walk(root)), clock(lambda: walk(root))
    drop_caches()
    with mounter() as root:
        drop_caches()
        return cold, warm, clock(lambda: read_everything(root))
