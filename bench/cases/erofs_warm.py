"""Driver ``erofs`` beside the kernel's EROFS on a loop device, everything in the page cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.measure import Samples, clock, interleave
from bench.place import Place, read_everything, walk
from bench.report import Result, ratio_row
from bench.rivals import kernel_erofs, make_erofs
from bench.trees import debian_tree, small_tree, tar_of
from demo.image import debian_python
from demo.process import run

AT_MOST = 1.05
RIVAL = "kernel EROFS"


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    pairs = {
        "small": (place.convert(f"tar:{tar_of(small_tree())}", "small")[0], small_tree()),
        "debian": (place.convert(f"oci:{layout}:v1", "debian")[0], debian_tree()),
    }
    with ExitStack() as mounts:
        roots: dict[str, tuple[Path, Path]] = {}
        for name, (source, tree) in pairs.items():
            image = make_erofs(tree, place.path / f"{name}.erofs")
            options = ["--driver", "erofs"]
            ours = mounts.enter_context(place.home().mounted(source, place.path / f"{name}-cafs", options))
            theirs = mounts.enter_context(kernel_erofs(image, place.path / f"{name}-kernel"))
            roots[name] = (ours, theirs)
        samples: Samples = {}
        jobs: list[tuple[str, str, Callable[[Path], None]]] = [
            ("find -ls, 100,000 files", "small", walk),
            ("tar c, 100,000 files", "small", read_everything),
            ("find -ls, Debian, 10 times", "debian", lambda root: _repeat(walk, root)),
            ("tar c, Debian", "debian", read_everything),
            ("python3 -c 'import numpy', 5 times", "debian", _import_numpy),
        ]
        rows = []
        for what, tree_name, job in jobs:
            ours, theirs = roots[tree_name]
            job(ours)  # into the page cache
            job(theirs)
            turns = {"cafs": partial(clock, partial(job, ours)), RIVAL: partial(clock, partial(job, theirs))}
            found = interleave(turns, max(place.rounds, 7))
            place.say(f"{what}: {found}")
            rows.append(ratio_row(what, found["cafs"], (RIVAL, found[RIVAL]), AT_MOST))
            samples |= {f"{what}, {name}": values for name, values in found.items()}
    return Result(
        "erofs_warm",
        "Driver `erofs`, page cache warm",
        "The mounted root as a user gets it (overlayfs over the layers) beside the kernel's EROFS, alone,"
        " on a loop device with an uncompressed image of the same tree. Everything was read once before.",
        tuple(rows),
        samples,
    )


def _repeat(job: Callable[[Path], None], root: Path) -> None:
    for _ in range(10):
        job(root)


def _import_numpy(root: Path) -> None:
    for _ in range(5):
        run(["chroot", root, "python3", "-c", "import numpy"])
