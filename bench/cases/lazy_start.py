"""Start of a Python program from a registry behind a slow link: lazily, and by pull, unpack, run."""

from __future__ import annotations

import shutil
import time
from typing import Any

from bench.measure import interleave, median
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.cafs_command import CafsHome
from demo.image import compressed_bytes, debian_python
from demo.link import open_link
from demo.registry import ANY_ADDRESS, serve_registry
from demo.start import SERVER, Start, start_eagerly, start_lazily

MBIT_PER_S = 200
REPOSITORY = "bench/python:v1"
TIMES_FASTER = 5.0
BYTES_RATIO = 1.5
COUNTERS_REST_S = 2.5


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    fetched: list[tuple[int, int]] = []
    with open_link(MBIT_PER_S) as link, serve_registry(place.path, link.on_server(), ANY_ADDRESS) as registry:
        registry.push(layout, "v1", REPOSITORY)
        near = CafsHome(place.path / "near", registry.enter, (registry.local,))
        near.call("convert", f"docker://{registry.local}/{REPOSITORY}")
        far = CafsHome(place.path / "far", tuple(link.on_client()), (SERVER,))

        def lazily() -> Start:
            start = start_lazily(far, link, REPOSITORY, observe=lambda: fetched.append(_counted(far)))
            place.say(f"lazily: {start}, fetched and touched {fetched[-1]}")
            return start

        def eagerly() -> Start:
            return start_eagerly(link, REPOSITORY, place.path / "eager")

        starts = interleave({"cafs": lazily, "pull": eagerly}, place.rounds)
    shutil.rmtree(place.path / "registry")
    ours, theirs = ([start.seconds for start in starts[who]] for who in ("cafs", "pull"))
    times = median(theirs) / median(ours)
    got, touched = median([float(one) for one, _ in fetched]), median([float(two) for _, two in fetched])
    received = median([float(start.received_bytes) for start in starts["cafs"]])
    return Result(
        "lazy_start",
        f"Start of a program over {MBIT_PER_S} Mbit/s",
        f"The demo: an image of {compressed_bytes(layout, 'v1') / 1e6:.1f} MB in a real docker-registry,"
        " the program imports numpy and answers. Everything cold on both sides: page cache dropped, no"
        " index, no chunk. The rival is `skopeo copy`, `umoci raw unpack`, the same chroot. The client"
        f" received {received / 1e6:.1f} MB in all until the answer (manifests, indexes, chunks, headers).",
        (
            Row(
                "from nothing to the answer",
                format_seconds(ours),
                f"pull, unpack, run {format_seconds(theirs)}",
                f"{times:.1f} times faster",
                f"at least {TIMES_FASTER:.0f} times",
                times >= TIMES_FASTER,
            ),
            Row(
                "chunk bytes fetched",
                f"{got / 1e6:.2f} MB",
                f"compressed bytes of the chunks read {touched / 1e6:.2f} MB",
                f"{got / touched:.2f}",
                f"at most {BYTES_RATIO}",
                got <= BYTES_RATIO * touched,
            ),
        ),
        {"cafs": ours, "pull": theirs},
    )


def _counted(home: CafsHome) -> tuple[int, int]:
    """Chunk bytes fetched, and compressed bytes of the chunks that were read, by the mount of ``home``.

    The server writes its counters now and then: they are taken once they rest.
    """
    before: dict[str, Any] = {}
    stats = home.stats()
    while before != stats:
        before = stats
        time.sleep(COUNTERS_REST_S)
        stats = home.stats()
    return int(stats["fetched_bytes"]), int(stats["touched_frame_bytes"])
