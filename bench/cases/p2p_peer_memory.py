"""What a peer holds in memory: with nothing to do, and while it receives, reads out and sends at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from bench.memory import resident_bytes
from bench.peers.cluster import Node, open_cluster, open_origin
from bench.place import Place
from bench.report import Result, Row
from demo.process import DemoError

CHILDREN = int(os.environ.get("CAFS_BENCH_MEMORY_CHILDREN", "4"))
READ_BYTES = 768 << 20
CONTENTS = {"pieces of 4 MiB": 2 << 30, "pieces of 16 MiB": 16 << 30}
"""How long contents are that are cut so; all of them are holes at the origin, and a part is read."""
IDLE_BYTES, LOADED_BYTES = 90 << 20, 200 << 20
REST_S = 7.0
"""After its start: what libraries left over is given back after 5 s."""


def run_case(place: Place) -> Result:
    (place.path / "www").mkdir()
    idle: list[int] = []
    most: dict[str, int] = {}
    for what, size in CONTENTS.items():
        name = f"f{size >> 30}"
        with (place.path / "www" / name).open("wb") as file:
            file.truncate(size)
        with open_origin(place.path) as origin, open_cluster(place.path / f"c{size >> 30}") as cluster:
            cluster.start_scheduler()
            nodes = [cluster.start_peer(f"n{number}") for number in range(CHILDREN + 2)]
            time.sleep(REST_S)
            idle += [resident_bytes(node.pid) for node in nodes]
            most[what] = _load(nodes, f"{origin.url}/{name}")
            place.say(f"{what}: {most[what] >> 20} MiB at most")
        place.fresh(f"c{size >> 30}")
    rows = [_row("idle, registered with a scheduler", max(idle), IDLE_BYTES)]
    rows += [_row(f"full load, {what}", held, LOADED_BYTES) for what, held in most.items()]
    return Result(
        "p2p_peer_memory",
        "Memory of a peer",
        f"{CHILDREN + 2} peers and a scheduler on loopback, no limits. One has {READ_BYTES >> 20} MiB of a"
        " content; the others fetch them at the same time, from it and from each other, each for a reader on"
        " its socket. The largest resident set that any of them ever had, mapped files included.",
        tuple(rows),
        {"idle": [float(held) for held in idle], "full load": [float(held) for held in most.values()]},
    )


def _row(what: str, held: int, most: int) -> Row:
    return Row(what, f"{held >> 20} MiB", "", "", f"under {most >> 20} MiB", held < most)


def _load(nodes: Sequence[Node], url: str) -> int:
    _fetch(nodes[0], url)
    failures: list[Exception] = []

    def fetch(node: Node) -> None:
        try:
            _fetch(node, url)
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=fetch, args=(node,)) for node in nodes[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return max(resident_bytes(node.pid, "VmHWM") for node in nodes)


def _fetch(node: Node, url: str) -> None:
    if node.fetch(url, READ_BYTES) != READ_BYTES:
        raise DemoError("the peer did not give all of it")
