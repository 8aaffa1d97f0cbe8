"""A chunk that a reader waits for, from another host, while the image's rest comes over the same link."""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from bench.measure import median
from bench.peers.chunked_image import chunks_of, push_random_image
from bench.peers.cluster import ChunkReader, Cluster, Node, open_cluster
from bench.place import Place
from bench.report import Result, Row
from cafs.core.chunk_ref import ChunkRef
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish
from demo.process import DemoError
from demo.registry import ANY_ADDRESS, PORT, serve_registry
from demo.switch import BURST_MS, QUEUE_MS, Port, open_switch

MBIT_PER_S = 200
IMAGE_BYTES = int(os.environ.get("CAFS_BENCH_ON_DEMAND_BYTES", str(320 << 20)))
SAMPLES = int(os.environ.get("CAFS_BENCH_ON_DEMAND_SAMPLES", "200"))
P50_MS, P99_MS = 5.0, 30.0
WARM_UP_S = 1.5
_PAUSE_S = 0.02
"""Between two reads, on average."""
_BUSY = 0.5
"""Of the link must be taken by the fill, else this measures nothing."""


@dataclass(frozen=True, slots=True)
class Taken:
    """One child."""

    idle: list[float]
    """Seconds for each chunk, before the fill began."""
    busy: list[float]
    fill_bytes_per_s: float


def run_case(place: Place) -> Result:
    taken = [_measure(place, str(number)) for number in range(place.rounds)]
    busy = [second for one in taken for second in one.busy]
    idle = [second for one in taken for second in one.idle]
    rows = []
    for part, most in ((50, P50_MS), (99, P99_MS)):
        ms = _percentile_ms(busy, part)
        rows.append(
            Row(f"p{part} while a fill runs", f"{ms:.1f} ms", f"no fill {_percentile_ms(idle, part):.1f} ms",
                "", f"under {most:.0f} ms", ms < most)
        )  # fmt: skip
    fill = median([one.fill_bytes_per_s for one in taken]) / 1e6
    rows.append(
        Row("the fill meanwhile", f"{fill:.1f} MB/s", f"link {MBIT_PER_S / 8:.0f} MB/s", "", "", None)
    )
    return Result(
        "p2p_on_demand",
        "A chunk on demand from a parent on the same switch",
        f"Two hosts as network namespaces, {MBIT_PER_S} Mbit/s each, in both directions, at both ends of the"
        f" cable (`tbf`: what is more than {BURST_MS} ms at once is queued, to {QUEUE_MS} ms, then dropped;"
        " first in, first out, so nothing but the hosts helps a reader; a link that was not full passes a"
        " chunk of 64 KiB in that burst, which else takes 2.6 ms); one holds all of an image of"
        f" {IMAGE_BYTES >> 20} MiB that does not compress, the other mounts it and fills its store"
        f" (`--prefetch all`). Meanwhile its peer's socket is asked for {SAMPLES} chunks of the image's end,"
        " one by one, as a mount asks for a reader: from the wish until the verified chunk is there.",
        tuple(rows),
        {"busy": busy, "idle": idle},
    )


def _percentile_ms(samples: list[float], part: int) -> float:
    return 1000 * (median(samples) if part == 50 else sorted(samples)[len(samples) * part // 100])


def _measure(place: Place, name: str) -> Taken:
    folder = place.path / name
    folder.mkdir()
    with open_switch([0, 0, MBIT_PER_S, MBIT_PER_S]) as ports:
        at_registry, at_scheduler, at_parent, at_child = ports
        with (
            serve_registry(folder, at_registry.inside, ANY_ADDRESS),
            open_cluster(folder) as cluster,
        ):
            cluster.start_scheduler(at_scheduler.address, at_scheduler.inside)
            registry = f"{at_registry.address}:{PORT}"
            reference = f"{registry}/bench/image:v1"
            push_random_image(folder, registry, reference, IMAGE_BYTES, at_registry.inside)
            cluster.insecure = (registry,)
            parent = cluster.start_peer("parent", at_parent.address, at_parent.inside)
            with parent.home.mounted(reference, folder / "filled", ["--prefetch", "all"]) as root:
                _await_fill(root)
                blob, refs = chunks_of(parent.home)
                return _ask(place, folder, cluster, at_child, reference, blob, refs)


def _await_fill(root: Path) -> None:
    for path in sorted(root.iterdir()):
        path.read_bytes()


def _ask(
    place: Place,
    folder: Path,
    cluster: Cluster,
    port: Port,
    reference: str,
    blob: BlobRef,
    refs: list[ChunkRef],
) -> Taken:
    child = cluster.start_peer("child", port.address, port.inside)
    last = random.Random(1).sample(refs[-len(refs) // 4 :], SAMPLES + 20)
    repository = reference.rpartition(":")[0]
    wishes = [ChunkWish(blob, repository, (ref,), may_fetch=True) for ref in last]
    _read(child, wishes[:10])
    idle = _read(child, wishes[10:20])
    with child.home.mounted(reference, folder / "mounted", ["--prefetch", "all"]):
        time.sleep(WARM_UP_S)
        before, began = _peer_bytes(child), time.monotonic()
        busy = _read(child, wishes[20:])
        rate = (_peer_bytes(child) - before) / (time.monotonic() - began)
    if rate < MBIT_PER_S * 125_000 * _BUSY:
        raise DemoError(f"the fill came with {rate / 1e6:.1f} MB/s only: this measures nothing")
    place.say(f"{folder.name}: p50 {_percentile_ms(busy, 50):.1f} ms, p99 {_percentile_ms(busy, 99):.1f} ms")
    return Taken(idle, busy, rate)


def _read(child: Node, wishes: list[ChunkWish]) -> list[float]:
    reader, rng, taken = ChunkReader(child), random.Random(2), []
    try:
        for wish in wishes:
            before = time.perf_counter()
            if reader.read(wish) != 1:
                raise DemoError("the peer did not bring a chunk")
            taken.append(time.perf_counter() - before)
            time.sleep(rng.uniform(0, 2 * _PAUSE_S))
    finally:
        reader.close()
    return taken


def _peer_bytes(child: Node) -> int:
    return int(child.status()["chunks"]["peer_bytes"])
