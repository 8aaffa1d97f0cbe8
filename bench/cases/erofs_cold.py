"""Driver ``erofs`` from the chunk store, page cache cold, beside the kernel's EROFS on the same disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.decode_speed import decode_speed
from bench.kept_memory import memory_is_kept
from bench.measure import Samples, clock, interleave, median
from bench.place import Place, read_everything
from bench.report import Result, Row, ratio_row
from bench.rivals import kernel_erofs, make_erofs
from bench.trees import large_file_tree, large_tree, tar_of
from demo.cold import drop_caches
from demo.process import run

RIVAL = "kernel EROFS"
MB_PER_S = 600
OPTIONS = ("--driver", "erofs", "--prefetch", "none")


def run_case(place: Place) -> Result:
    tree, big = large_tree(), large_file_tree()
    with memory_is_kept():
        everything = _compare(place, "large", f"tar:{tar_of(tree)}", tree, read_everything)
        one_file = _compare(place, "big", f"dir:{big}", big, _read_big)
    layer_mb = tar_of(tree).stat().st_size / 1e6
    size = (big / "big").stat().st_size / 1e6
    speed, theirs = size / median(one_file["cafs"]), size / median(one_file[RIVAL])
    samples: Samples = {f"tar c, {name}": values for name, values in everything.items()}
    samples |= {f"one file, {name}": values for name, values in one_file.items()}
    return Result(
        "erofs_cold",
        "Driver `erofs`, page cache cold, chunks in the store",
        "Before each sample: unmount, drop the page cache, mount, and drop the page cache once"
        " more when the server has loaded, as on a node that runs containers it has long ago. `tar c` reads"
        f" the {layer_mb:,.0f} MB layer of the conversion above; one file is"
        f" {size:,.0f} MB (that layer's tar as a file), read with `dd bs=1M`. The rival is the kernel's"
        " EROFS on a loop device, uncompressed image on the same disk. In a virtual machine the memory"
        " that dropping the page cache frees stays with it meanwhile: else both sides wait for their pages."
        f" Decompressing (zstd) and hashing (BLAKE3) that file's chunks alone, in memory, is done at"
        f" {decode_speed(big / 'big'):.0f} MB/s by one core here; the rival does neither.",
        (
            ratio_row("tar c of everything", everything["cafs"], (RIVAL, everything[RIVAL]), 2),
            Row(
                "one big file",
                f"{speed:.0f} MB/s",
                f"{RIVAL} {theirs:.0f} MB/s",
                f"{theirs / speed:.2f}",
                f"at least {MB_PER_S} MB/s",
                speed >= MB_PER_S,
            ),
        ),
        samples,
    )


def _compare(
    place: Place, name: str, source: str, tree: Path, job: Callable[[Path], None]
) -> dict[str, list[float]]:
    converted, _ = place.convert(source, name)
    home = place.filled(converted, f"{name}-home", "erofs")
    image = make_erofs(tree, place.path / f"{name}.erofs")

    def ours() -> float:
        drop_caches()
        with home.mounted(converted, place.path / f"{name}-cafs", OPTIONS) as root:
            home.await_server()
            drop_caches()
            return clock(lambda: job(root))

    def theirs() -> float:
        drop_caches()
        with kernel_erofs(image, place.path / f"{name}-kernel") as root:
            drop_caches()
            return clock(lambda: job(root))

    found = interleave({"cafs": ours, RIVAL: theirs}, place.rounds)
    place.say(f"{name}: {found}")
    return found


def _read_big(root: Path) -> None:
    run(["dd", f"if={root / 'big'}", "of=/dev/null", "bs=1M", "status=none"])
