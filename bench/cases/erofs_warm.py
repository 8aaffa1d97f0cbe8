"""Driver ``erofs`` beside the kernel's EROFS on a loop device, everything in the page cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench.measure import Samples, clock, interleave
from bench.place import Place, read_everything, walk
from bench.report import Result, Row, ratio_row
from bench.rivals import kernel_erofs, make_erofs
from bench.trees import debian_tree, small_tree, tar_of
from demo.image import debian_python
from demo.process import run

AT_MOST = 1.05
RIVAL = "kernel EROFS"
OPTIONS = ("--driver", "erofs", "--prefetch", "none")
LEAST_ROUNDS = 9
"""Samples are short here, and the bound is narrow."""

Job = Callable[[Path], None]


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    small = place.convert(f"tar:{tar_of(small_tree())}", "small")[0]
    debian = place.convert(f"oci:{layout}:v1", "debian")[0]
    rows: list[Row] = []
    samples: Samples = {}
    jobs: dict[str, Job] = {"find -ls, 100,000 files": walk, "tar c, 100,000 files": read_everything}
    _compare(place, small, small_tree(), jobs, rows, samples)
    jobs = {
        "find -ls, Debian, 10 times": partial(_repeat, 10, walk),
        "tar c, Debian, 5 times": partial(_repeat, 5, read_everything),
        "python3 -c 'import numpy', 5 times": partial(_repeat, 5, _import_numpy),
    }
    _compare(place, debian, debian_tree(), jobs, rows, samples)
    return Result(
        "erofs_warm",
        "Driver `erofs`, page cache warm",
        "The mounted root as a user gets it beside the kernel's EROFS on a loop device, with an"
        " uncompressed image of the same tree; everything was read once before. 100,000 files are an"
        " image of one layer, Debian is one of three.",
        tuple(rows),
        samples,
    )


def _compare(
    place: Place, source: str, tree: Path, jobs: dict[str, Job], rows: list[Row], samples: Samples
) -> None:
    """Run every job on ours and on the rival; adds to ``rows`` and ``samples``."""
    # With all chunks in the store and no prefetching, nothing goes on in the background.
    home = place.filled(source, f"{tree.name}-home", "erofs")
    image = make_erofs(tree, place.path / f"{tree.name}.erofs")
    with ExitStack() as mounts:
        roots = {
            "cafs": mounts.enter_context(home.mounted(source, place.path / f"{tree.name}-cafs", OPTIONS)),
            RIVAL: mounts.enter_context(kernel_erofs(image, place.path / f"{tree.name}-kernel")),
        }
        for what, job in jobs.items():
            for root in roots.values():  # into the page cache
                job(root)
            turns = {who: partial(clock, partial(job, root)) for who, root in roots.items()}
            found = interleave(turns, max(place.rounds, LEAST_ROUNDS))
            rows.append(ratio_row(what, found["cafs"], (RIVAL, found[RIVAL]), AT_MOST))
            samples.update({f"{what}, {who}": values for who, values in found.items()})


def _repeat(times: int, job: Job, root: Path) -> None:
    for _ in range(times):
        job(root)


def _import_numpy(root: Path) -> None:
    run(["chroot", root, "python3", "-c", "import numpy"])
