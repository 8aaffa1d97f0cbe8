"""``cafs convert`` of a large tar, beside ``zstd -3 -T2`` and ``mkfs.erofs`` with compression."""

from __future__ import annotations

import os

from bench.measure import Samples, clock, interleave, median
from bench.memory import Footprint, run_watched
from bench.place import Place
from bench.report import Result, Row, ratio_row
from bench.trees import large_tree, tar_of
from demo.process import run

MEMORY_BYTES = 400 << 20


def run_case(place: Place) -> Result:
    tree = large_tree()
    tar = tar_of(tree)
    place.say(f"{tar.stat().st_size / 1e6:,.0f} MB, read once before so that no contender waits for the disk")
    footprints: list[Footprint] = []

    def cafs() -> float:
        home = place.home(place.fresh("home").name)
        layout = place.fresh("converted")
        os.sync()
        footprints.append(run_watched(home.command("convert", f"tar:{tar}", f"oci:{layout}:bench"), home.env))
        return footprints[-1].seconds

    def zstd() -> float:
        target = place.fresh("tar.zst")
        os.sync()
        return clock(lambda: run(["zstd", "-q", "-3", "-T2", tar, "-o", target]))

    def mkfs() -> float:
        target = place.fresh("lz4hc.erofs")
        os.sync()
        return clock(lambda: run(["mkfs.erofs", "--quiet", f"-z{_compressor()}", target, tree]))

    run(["sh", "-c", 'cat "$0" >/dev/null; tar -cf - "$1" | cat >/dev/null', tar, tree])
    samples: Samples = interleave({"cafs": cafs, "zstd -3 -T2": zstd, "mkfs.erofs": mkfs}, place.rounds)
    peak = max(footprint.peak_bytes for footprint in footprints)
    size = tar.stat().st_size
    return Result(
        "convert_large",
        "Conversion of a large layer",
        f"One layer of {size / 1e6:,.0f} MB: programs, libraries and sources of the machine. `cafs convert"
        " tar:… oci:…` reads it, cuts, hashes, compresses and writes;"
        f" {size / 1e6 / median(samples['cafs']):.0f} MB/s. `mkfs.erofs -z{_compressor()}` packs the same"
        " tree unpacked. Inputs are in the page cache for all. Resident memory is the largest sum over"
        " all processes, sampled every 50 ms.",
        (
            ratio_row("time", samples["cafs"], ("zstd -3 -T2", samples["zstd -3 -T2"]), 2),
            ratio_row("time", samples["cafs"], ("mkfs.erofs", samples["mkfs.erofs"]), 1),
            Row(
                "resident memory",
                f"{peak / (1 << 20):.0f} MiB",
                "",
                "",
                f"under {MEMORY_BYTES >> 20} MiB",
                peak < MEMORY_BYTES,
            ),
        ),
        samples,
    )


def _compressor() -> str:
    """zstd where this ``mkfs.erofs`` has it, else lz4hc."""
    listed = run(["sh", "-c", "mkfs.erofs --help 2>&1 | grep -A9 -i 'available compressors' || true"])
    return "zstd" if "zstd" in listed else "lz4hc"
