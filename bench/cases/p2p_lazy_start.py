"""Eight hosts start one lazily mounted image at once: what the registry sends, and how long it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from bench.measure import interleave, median
from bench.peers.cluster import Node, open_cluster
from bench.peers.disk import memory_disk
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.cafs_command import CafsHome
from demo.image import ANSWER, compressed_bytes, debian_python
from demo.process import DemoError
from demo.registry import ANY_ADDRESS, PORT, serve_registry
from demo.start import run_program
from demo.switch import Port, open_switch

HOSTS, MBIT_PER_S = 8, 200
MOST_TIMES, MOST_COPIES = 1.5, 1.1
_IMAGE = "bench/python:v1"


@dataclass(frozen=True, slots=True)
class Started:
    """Hosts that started at once."""

    ready_s: list[float]
    """Of each, until its root filesystem was there."""
    answered_s: list[float]
    """Until its program had answered; the first host first."""
    origin_bytes: int
    """That left the registry's port, headers and all."""


def run_case(place: Place) -> Result:
    layout = debian_python("v1", place.say)
    with (
        open_switch([MBIT_PER_S, 0, *[MBIT_PER_S] * HOSTS]) as ports,
        serve_registry(place.path, ports[0].inside, ANY_ADDRESS) as registry,
    ):
        registry.push(layout, "v1", _IMAGE)
        near = CafsHome(place.path / "near", registry.enter, (registry.local,))
        near.call("convert", f"docker://{registry.local}/{_IMAGE}")
        turns = {
            name: partial(_start, place, ports[0], ports[1], ports[2 : 2 + count])
            for name, count in (("one host", 1), ("eight hosts", HOSTS))
        }
        started = interleave(turns, place.rounds)
    return _judge(started["one host"], started["eight hosts"], compressed_bytes(layout, "v1"))


def _start(place: Place, at_registry: Port, at_scheduler: Port, hosts: Sequence[Port]) -> Started:
    """A new scheduler and new peers, and one start on each."""
    with memory_disk(place.path / "swarm", 1 << 30) as folder, open_cluster(folder) as cluster:
        cluster.insecure = (f"{at_registry.address}:{PORT}",)
        cluster.start_scheduler(at_scheduler.address, at_scheduler.inside)
        nodes = [
            cluster.start_peer(f"h{number}", port.address, port.inside) for number, port in enumerate(hosts)
        ]
        before = at_registry.sent_bytes()
        times = _start_everywhere(nodes, f"docker://{cluster.insecure[0]}/{_IMAGE}")
        started = Started(*times, at_registry.sent_bytes() - before)
    place.say(f"{len(hosts)} hosts: {_range(started.answered_s)}, {started.origin_bytes / 1e6:.2f} MB")
    return started


def _range(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.2f} to {max(seconds):.2f} s"


def _start_everywhere(nodes: Sequence[Node], source: str) -> tuple[list[float], list[float]]:
    """Seconds until roots and answers were there. All mounts stay until the last has its answer."""
    together = threading.Barrier(len(nodes))
    with ExitStack() as mounts, ThreadPoolExecutor(len(nodes)) as threads:
        times = list(threads.map(lambda node: _start_one(node, source, together, mounts), nodes))
    return [ready for ready, _ in times], [answered for _, answered in times]


def _start_one(
    node: Node, source: str, together: threading.Barrier, mounts: ExitStack
) -> tuple[float, float]:
    together.wait()
    began = time.perf_counter()
    root = mounts.enter_context(node.home.mounted(source, node.home.place / "root"))
    ready = time.perf_counter() - began
    answer = run_program(root).strip()
    if answer != ANSWER:
        raise DemoError(f"the program answered {answer!r} instead of {ANSWER!r}")
    return ready, time.perf_counter() - began


def _judge(one: list[Started], many: list[Started], image_bytes: int) -> Result:
    alone = [started.answered_s[0] for started in one]
    slowest = [max(started.answered_s) for started in many]
    rows = (
        _bytes_row([started.origin_bytes for started in many], [started.origin_bytes for started in one]),
        _time_row("until the slowest host's answer", slowest, alone, MOST_TIMES),
        _time_row("until the median host's answer", [median(s.answered_s) for s in many], alone, None),
        _time_row(
            "until the median host's root is there",
            [median(s.ready_s) for s in many],
            [s.ready_s[0] for s in one],
            None,
        ),
    )
    return Result(
        "p2p_lazy_start",
        f"{HOSTS} hosts start one image at once over {MBIT_PER_S} Mbit/s",
        f"The demo's image ({image_bytes / 1e6:.1f} MB, converted, in a real docker-registry) and program;"
        f" hosts are network namespaces on one switch, {MBIT_PER_S} Mbit/s in each direction for every host"
        " and the registry, the scheduler has a port of its own. Each host has a `cafs peer` that runs"
        " already and an empty cache, mounts the image (`cafs mount`) and runs the program in it by"
        " chroot, all at once, until the last one has its answer; no container runtime. Beside it one such"
        " host alone. The hosts' files are in memory: here they would share one disk. No seed: seeds take"
        " no part in chunks of lazily mounted images. Sent by the registry is all that left its port,"
        " manifests, indexes and headers too; the worst round counts. All hosts share this machine's"
        " cores, which a single host has for itself: that is what their time tells of, more than of links.",
        rows,
        {"one host": alone, "eight hosts": slowest},
    )


def _bytes_row(many: list[int], one: list[int]) -> Row:
    sent, needed = max(many), median([float(count) for count in one])
    return Row(
        "sent by the registry",
        f"{sent / 1e6:.2f} MB",
        f"one host {needed / 1e6:.2f} MB",
        f"{sent / needed:.3f}",
        f"at most {MOST_COPIES}",
        sent <= MOST_COPIES * needed,
    )


def _time_row(what: str, ours: list[float], alone: list[float], most: float | None) -> Row:
    ratio = median(ours) / median(alone)
    shown = (format_seconds(ours), f"one host {format_seconds(alone)}", f"{ratio:.2f}")
    return Row(what, *shown, f"at most {most}" if most else "", ratio <= most if most else None)
