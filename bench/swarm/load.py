"""A day at a large cluster's scheduler in short: events of 10,000 hosts and 1,000 tasks, made before they are
handled.

A download registers, tells of its pieces in batches, says now and then that a parent failed, and ends;
every host says that it is alive; now and then one leaves and comes back with what it holds. Half of all
downloads are of a tenth of the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from bench.swarm.collector import collecting_rarely
from cafs.core.scheduling.core import Scheduling
from cafs.core.scheduling.events import (
    Event,
    FailReason,
    Held,
    HostAlive,
    HostHello,
    HostLeft,
    HostType,
    Meta,
    Outcome,
    PeerFinished,
    PeerRegister,
    Piece,
    PieceFailed,
    PiecesFinished,
    TaskMeta,
    TaskSpec,
    Tick,
)
from cafs.core.scheduling.limits import Limits

_MIB = 1 << 20
_BATCH = 4
"""Pieces in one report: at 200 Mbit/s a host gets 24 a second, and reports a few times a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much of everything."""

    hosts: int = 10_000
    tasks: int = 1_000
    seeds: int = 20
    pieces: int = 128
    downloads: int = 4_000
    """In the measured part."""
    under_way: int = 1_000
    """At the same time."""
    events_per_s: float = 30_000.0
    """What the clock of the events says."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the core took."""

    events: int
    cpu_s: float
    p50_s: float
    p99_s: float
    slowest_s: float
    choice_p99_s: float
    """Of registrations alone: each is told whom to ask."""
    decisions: int

    @property
    def events_per_s(self) -> float:
        return self.events / self.cpu_s


class Cluster:
    """Makes the events."""

    def __init__(self, load: Load, rng: Random) -> None:
        self.load = load
        self.rng = rng
        self.names = [f"{rng.getrandbits(128):032x}" for _ in range(load.hosts)]
        self.tasks = [f"{rng.getrandbits(256):064x}" for _ in range(load.tasks)]
        self.meta = Meta(content_bytes=load.pieces * _MIB, piece_bytes=_MIB)
        self.held: dict[str, set[str]] = {name: set() for name in self.names}
        self.digests = b"".join(self._digest(number) for number in range(load.pieces))

    def hello(self, name: str) -> HostHello:
        """With all that it holds."""
        everything = (1 << self.load.pieces) - 1
        held = tuple(
            Held(
                spec=TaskSpec(task_id=task, url="https://origin/x", seedable=True),
                meta=self.meta,
                have=everything,
                digests=self.digests,
            )
            for task in self.held[name]
        )
        number = int(name[:6], 16)
        kind = HostType.SEED if name in self.names[: self.load.seeds] else HostType.NORMAL
        return HostHello(
            host_id=name,
            address=f"{name}:1",
            type=kind,
            upload_limit=32,
            idc="abc"[number % 3],
            location=("eu", "abc"[number % 3], str(number % 40)),
            held=held,
        )

    def downloads(self, count: int) -> Iterator[list[Event]]:
        """The events of one download each."""
        for number in range(count):
            name = self.rng.choice(self.names)
            few = max(1, self.load.tasks // 10)
            task = self.tasks[self.rng.randrange(few if self.rng.random() < 0.5 else self.load.tasks)]
            yield list(self._download(name, task, f"{number:032x}"))
            self.held[name].add(task)

    def _download(self, name: str, task: str, peer: str) -> Iterator[Event]:
        spec = TaskSpec(task_id=task, url="https://origin/x", seedable=True)
        yield PeerRegister(name, peer, spec)
        yield TaskMeta(name, task, self.meta)
        numbers = list(range(self.load.pieces))
        self.rng.shuffle(numbers)
        for start in range(0, len(numbers), _BATCH):
            parent = self.rng.choice(self.names)
            batch = numbers[start : start + _BATCH]
            cost = int(self.rng.lognormvariate(3.7, 0.5))
            yield PiecesFinished(name, peer, tuple(Piece(n, self._digest(n), parent, cost) for n in batch))
            if self.rng.random() < 0.02:
                yield PieceFailed(name, peer, numbers[0], parent, FailReason.REFUSED)
        yield PeerFinished(name, peer, Outcome.SUCCEEDED)

    @staticmethod
    def _digest(number: int) -> bytes:
        return (number + 1).to_bytes(32, "big")

    def mixed(self) -> Iterator[Event]:
        """Downloads beside each other, hosts that are alive, come and go, and ticks."""
        coming = self.downloads(self.load.downloads)
        under_way = [iter(events) for _, events in zip(range(self.load.under_way), coming, strict=False)]
        made = 0
        every = max(1, int(self.load.events_per_s * 10 / self.load.hosts))
        while under_way:
            place = self.rng.randrange(len(under_way))
            event = next(under_way[place], None)
            if event is None:
                fresh = next(coming, None)
                if fresh is None:
                    under_way[place] = under_way[-1]
                    under_way.pop()
                else:
                    under_way[place] = iter(fresh)
                continue
            yield event
            made += 1
            if made % every == 0:
                yield HostAlive(self.rng.choice(self.names), self.rng.randrange(20))
            if made % 300 == 0:
                yield Tick()
            if made % 4_000 == 0:
                name = self.rng.choice(self.names)
                yield HostLeft(name)
                yield self.hello(name)


def measure(load: Load, *, seed: int = 1) -> Measured:
    """Fill a scheduler, then let it handle the mixed events, each one timed."""
    cluster = Cluster(load, Random(seed))
    core = Scheduling(Limits(gone_after_s=1e9), Random(seed + 1))
    for name in cluster.names:
        for task in cluster.rng.sample(cluster.tasks, 4):
            cluster.held[name].add(task)
        core.handle(cluster.hello(name), 0.0)
    events = list(cluster.mixed())
    with collecting_rarely():
        return _handle_all(load, core, events)


def _handle_all(load: Load, core: Scheduling, events: list[Event]) -> Measured:
    took, decisions = [], 0
    clock, handle, step = time.perf_counter, core.handle, 1 / load.events_per_s
    began_cpu = time.process_time()
    for number, event in enumerate(events):
        began = clock()
        decisions += len(handle(event, number * step))
        took.append(clock() - began)
    cpu_s = time.process_time() - began_cpu
    choices = [s for s, event in zip(took, events, strict=True) if type(event) is PeerRegister]
    late = _late(choices)
    took.sort()
    return Measured(len(took), cpu_s, took[len(took) // 2], _late(took), took[-1], late, decisions)


def _late(took: list[float]) -> float:
    """The 99th of a hundred."""
    return sorted(took)[len(took) * 99 // 100]
