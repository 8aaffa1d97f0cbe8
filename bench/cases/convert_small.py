"""``cafs convert`` of very many small files: its time, and how large the index gets."""

from __future__ import annotations

import os

from bench.artifact import Artifact
from bench.measure import clock, median
from bench.place import Place
from bench.report import Result, Row, format_seconds
from bench.trees import SMALL_FILES, small_tree, tar_of, tree_bytes

SECONDS = 60


def run_case(place: Place) -> Result:
    tree = small_tree()
    tar, data_bytes = tar_of(tree), tree_bytes(tree)
    artifacts: list[Artifact] = []

    def convert() -> None:
        artifacts.append(place.convert(f"tar:{tar}", "converted")[1])

    samples = []
    for _ in range(place.rounds):
        place.fresh("home")
        os.sync()
        samples.append(clock(convert))
    made = artifacts[-1]
    bound = data_bytes * 0.015 + 160 * SMALL_FILES
    return Result(
        "convert_small",
        "Conversion of 100,000 small files",
        f"A layer of {SMALL_FILES:,} generated files (seeded; {data_bytes / 1e6:,.0f} MB, sizes spread as"
        " those of sources) in 5,000 directories. The index counts as it is used, not compressed.",
        (
            Row("time", format_seconds(samples), "", "", f"under {SECONDS} s", median(samples) < SECONDS),
            Row(
                "index",
                f"{made.plain_index_bytes / 1e6:.1f} MB ({made.index_bytes / 1e6:.1f} MB transferred)",
                "",
                "",
                f"at most {bound / 1e6:.1f} MB (1.5% + 160 B a file)",
                made.plain_index_bytes <= bound,
            ),
        ),
        {"cafs": samples},
    )
