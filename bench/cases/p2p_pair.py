"""One peer gives another one a file over loopback, beside nginx and curl on the same disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.measure import clock, interleave, median
from bench.peers.cluster import Cluster, Node, Origin, open_cluster, open_origin
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.process import DemoError, run

CONTENT_BYTES = int(os.environ.get("CAFS_BENCH_PAIR_BYTES", str(1 << 29)))
LEAST_RATIO = 0.4


def run_case(place: Place) -> Result:
    (place.path / "www").mkdir()
    with (place.path / "www/file").open("wb") as file:
        for _ in range(CONTENT_BYTES >> 20):
            file.write(os.urandom(1 << 20))
    with open_origin(place.path) as origin, open_cluster(place.path) as cluster:
        cluster.start_scheduler()
        parent = cluster.start_peer("parent")
        parent.fetch(f"{origin.url}/file")
        turns = {
            "peer": partial(_child, place, cluster, origin, count=itertools.count()),
            "curl": partial(_curl, place, origin),
        }
        samples = interleave(turns, place.rounds)
        held = parent.status()["resident_bytes"]
    ratio = median(samples["curl"]) / median(samples["peer"])
    rates = {name: CONTENT_BYTES / median(taken) / 1e6 for name, taken in samples.items()}
    place.say(f"peer {rates['peer']:.0f} MB/s, curl {rates['curl']:.0f} MB/s, parent holds {held >> 20} MiB")
    return Result(
        "p2p_pair",
        "One peer to one child, loopback",
        f"{CONTENT_BYTES >> 20} MiB, from a peer that has it to one that has nothing, over loopback and"
        " without limits: from the wish on the child's socket until all of it was verified, stored, and read"
        " back through the socket by a reader that throws it away. Beside it nginx and curl that writes a"
        " file on the same disk. The ratio is of rates.",
        (
            Row(
                "to the child's disk and its reader",
                f"{format_seconds(samples['peer'])} ({rates['peer']:.0f} MB/s)",
                f"curl {format_seconds(samples['curl'])} ({rates['curl']:.0f} MB/s)",
                f"{ratio:.2f}",
                f"at least {LEAST_RATIO}",
                ratio >= LEAST_RATIO,
            ),
        ),
        samples,
    )


def _child(place: Place, cluster: Cluster, origin: Origin, *, count: Iterator[int]) -> float:
    name = f"child{next(count)}"
    before = origin.sent_bytes()
    with cluster.peer(name) as child:
        seconds = clock(lambda: _fetch(child, f"{origin.url}/file"))
    if origin.sent_bytes() - before > CONTENT_BYTES // 100:
        raise DemoError("the child asked the origin: this measures nothing")
    place.fresh(name)
    return seconds


def _fetch(child: Node, url: str) -> None:
    if child.fetch(url) != CONTENT_BYTES:
        raise DemoError("the child did not give all of it")


def _curl(place: Place, origin: Origin) -> float:
    target: Path = place.fresh("curled")
    return clock(lambda: run(["curl", "-sS", "-o", target, f"{origin.url}/file"]))
