"""Eight hosts on a switch fetch one file at once: how near to the bound, and how much the origin sends."""

from __future__ import annotations

import os
from pathlib import Path

from bench.measure import median
from bench.peers.cluster import get_everywhere, open_cluster, open_origin
from bench.peers.disk import memory_disk
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.process import DemoError
from demo.switch import Port, open_switch

HOSTS, MBIT_PER_S = 8, 200
CONTENT_BYTES = int(os.environ.get("CAFS_BENCH_SWARM_BYTES", str(500_000_000)))
MOST_OF_BOUND, MOST_COPIES = 1.3, 1.05
_LINK_BYTES_PER_S = MBIT_PER_S * 125_000


def run_case(place: Place) -> Result:
    (place.path / "www").mkdir()
    with (place.path / "www/file").open("wb") as file:
        left = CONTENT_BYTES
        while left:
            left -= file.write(os.urandom(min(left, 1 << 20)))
    rows, samples = [], {}
    for name, seeds in (("no seed", 0), ("a seed", 1)):
        taken = [_sample(place, f"{number}-{seeds}", seeds) for number in range(place.rounds)]
        seconds, copies = [s for s, _ in taken], [c for _, c in taken]
        bound = _bound_s(seeds)
        ratio = median(seconds) / bound
        rows.append(
            Row(f"{name}: until all have it", format_seconds(seconds), f"bound {bound:.1f} s",
                f"{ratio:.2f}", f"at most {MOST_OF_BOUND}", ratio <= MOST_OF_BOUND)
        )  # fmt: skip
        rows.append(
            Row(f"{name}: sent by the origin", f"{max(copies):.3f} copies", "", "",
                f"at most {MOST_COPIES}", max(copies) <= MOST_COPIES)
        )  # fmt: skip
        samples[name] = seconds
    return Result(
        "p2p_swarm",
        f"{HOSTS} hosts fetch the same {CONTENT_BYTES // 1_000_000} MB at once",
        f"Network namespaces on one switch, {MBIT_PER_S} Mbit/s in each direction for every host and the"
        " origin; the scheduler has a port of its own. `cafs get` on all hosts at once, until the last one"
        " has its file; the files are compared. All files are in memory, which was touched once before: here"
        " hosts would share one disk, which is not what is measured. The bound is the larger of size /"
        " origin's rate and all copies / all that hosts can send; headers of TCP and IP, 4%, are not in it."
        " Of the origin the worst round counts.",
        tuple(rows),
        samples,
    )


def _bound_s(seeds: int) -> float:
    uploads = (HOSTS + seeds) * _LINK_BYTES_PER_S
    return max(
        CONTENT_BYTES / _LINK_BYTES_PER_S, (HOSTS + seeds) * CONTENT_BYTES / (uploads + _LINK_BYTES_PER_S)
    )


def _sample(place: Place, name: str, seeds: int) -> tuple[float, float]:
    """Seconds, and copies that left the origin."""
    rates = [MBIT_PER_S, 0, *[MBIT_PER_S] * (HOSTS + seeds)]
    with (
        open_switch(rates) as ports,
        memory_disk(place.path / name, (HOSTS + seeds) * 2 * CONTENT_BYTES) as folder,
    ):
        return _swarm(place, folder, ports, seeds)


def _swarm(place: Place, folder: Path, ports: list[Port], seeds: int) -> tuple[float, float]:
    at_origin, at_scheduler, *hosts = ports
    with (
        open_origin(place.path, at_origin.address, at_origin.inside) as origin,
        open_cluster(folder) as cluster,
    ):
        before = origin.sent_bytes()
        cluster.start_scheduler(at_scheduler.address, at_scheduler.inside)
        nodes = [
            cluster.start_peer(f"h{number}", port.address, port.inside, seed=number < seeds)
            for number, port in enumerate(hosts)
        ]
        seconds = get_everywhere(nodes[seeds:], f"{origin.url}/file")
        expected = (place.path / "www/file").read_bytes()
        if any((node.home.place / "out").read_bytes() != expected for node in nodes[seeds:]):
            raise DemoError("some host has other bytes")
        copies = (origin.sent_bytes() - before) / CONTENT_BYTES
        place.say(f"{folder.name}: {seconds:.1f} s, {copies:.3f} copies")
        return seconds, copies
