"""Fifty containers of one image started at once on a node that has just pulled it, against overlayfs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from bench.containers.start import prepared, ready
from bench.images.recipes import REDIS, container_images
from bench.measure import interleave
from bench.memory import resident_bytes
from bench.place import Place
from bench.report import Result, Row, ratio_row
from demo.cafs_command import CafsHome
from demo.link import Link, open_link
from demo.node import CAFS, OVERLAYFS, Node, cold_node
from demo.process import DemoError, run
from demo.registry import serve_far_registry

CONTAINERS = 50
MEMORY_BYTES = 100 << 20
IMAGE = f"set/{REDIS.name}:v1"


@dataclass(frozen=True, slots=True)
class Sample:
    """All containers of one node."""

    seconds: float
    """From the first ``ctr run`` until the last one was ready."""
    failed: tuple[str, ...]
    snapshotter_bytes: int
    """The most resident memory that our snapshotter had at any time; 0 for overlayfs."""


def run_case(place: Place) -> Result:
    layout = container_images((REDIS,), place.say)
    with open_link(200) as link, serve_far_registry(place.path, link) as registry:
        registry.push(layout, REDIS.name, IMAGE)
        near = CafsHome(place.path / "near", registry.enter, (registry.local,))
        near.call("convert", f"docker://{registry.local}/{IMAGE}")
        turns = {who: partial(_sample, place, link, who) for who in (CAFS, OVERLAYFS)}
        samples = interleave(turns, place.rounds)
    seconds = {who: [one.seconds for one in taken] for who, taken in samples.items()}
    failed = {who: [line for one in taken for line in one.failed] for who, taken in samples.items()}
    for line in failed[CAFS][:5]:
        place.say(line)
    memory = max(one.snapshotter_bytes for one in samples[CAFS])
    rows = [
        ratio_row(
            f"{CONTAINERS} containers until all are ready", seconds[CAFS], (OVERLAYFS, seconds[OVERLAYFS])
        ),
        Row(
            "containers that failed",
            str(len(failed[CAFS])),
            f"{OVERLAYFS} {len(failed[OVERLAYFS])}",
            "",
            "0",
            not failed[CAFS],
        ),
        Row(
            "snapshotter, most resident memory at any time",
            f"{memory / (1 << 20):.0f} MiB",
            "",
            "",
            f"under {MEMORY_BYTES >> 20} MiB",
            memory < MEMORY_BYTES,
        ),
    ]
    return Result(
        "container_many",
        f"{CONTAINERS} containers at once",
        f"A cold node pulls the redis image over 200 Mbit/s; then {CONTAINERS} `ctr run` are started at once,"
        " and each server is asked until it answers PING. All run until the last one has. The first ones read"
        " what is not there yet; the pull itself is not counted on either side.",
        tuple(rows),
        seconds,
    )


def _sample(place: Place, link: Link, who: str) -> Sample:
    with cold_node(place.path / "n", link, with_cafs=who == CAFS) as node:
        run(node.pull_command(who, IMAGE), env=node.home.env if node.home else None)
        crowd = _Crowd(node, who)
        seconds = crowd.run()
        memory = resident_bytes(node.snapshotter.pid, "VmHWM") if node.snapshotter else 0
        place.say(f"{who}: {seconds:.2f} s, {len(crowd.failed)} failed")
        return Sample(seconds, tuple(crowd.failed), memory)


class _Crowd:
    """Containers that are started at once, and end when all are ready."""

    def __init__(self, node: Node, who: str) -> None:
        self._node = node
        self._who = who
        self._all = threading.Barrier(CONTAINERS)
        self.failed: list[str] = []

    def run(self) -> float:
        """Seconds until the last one was ready, or had failed."""
        began = time.perf_counter()
        with ThreadPoolExecutor(CONTAINERS) as pool:
            ends = list(pool.map(self._one, range(CONTAINERS)))
        return max(ends) - began

    def _one(self, number: int) -> float:
        name = f"many-{number}"
        ended = 0.0
        try:
            with prepared(self._node, REDIS, name) as options:
                image = self._node.reference(IMAGE)
                command = self._node.containerd.run_command(self._who, options, image, name)
                with ready(self._node, command, REDIS, name):
                    ended = time.perf_counter()
                    self._all.wait()
        except DemoError as e:
            ended = ended or time.perf_counter()
            self.failed.append(f"{name}: {e}")
            self._all.abort()
        except threading.BrokenBarrierError:
            pass  # another one failed: nobody waits for it
        return ended
