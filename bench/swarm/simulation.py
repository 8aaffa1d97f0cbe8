"""One content, one origin, many hosts: rounds in which pieces move, and a scheduler that is the real one.

A round is the time in which a usual link carries one piece of 1 MiB at 200 Mbit/s. A host asks random
parents that have something new and something left to give; an owner, besides, asks who is at the source for
its own pieces that nobody it knows has. A piece is taken only when the notary's digest of it has been told,
and given on in the next round. What is not simulated: latency, and the time that the scheduler takes (it is
measured).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from bench.swarm.collector import collecting_rarely
from bench.swarm.host import SimHost, pick
from cafs.core.scheduling.core import Scheduling
from cafs.core.scheduling.decisions import (
    Decision,
    GoToSource,
    Members,
    PieceDigests,
    Refused,
    SeedTask,
)
from cafs.core.scheduling.events import (
    Event,
    FailReason,
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

ROUND_S = 8 * (1 << 20) / 200e6
_MIB = 1 << 20
_TRIES = 8
"""Parents that a host asks in a round before it waits for the next."""
_REPORT_ROUNDS = 6
_PATIENCE_ROUNDS = 50
"""Without any piece; then a host asks those at the source, owner or not."""
_ALIVE_ROUNDS = 240
_TASK = "7" * 64
_TOLD_TICKS = 400
"""Ticks between two rounds at most, while members wait to be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated."""

    hosts: int
    pieces: int = 32
    seeds: int = 1
    seed_up: float = 4.0
    origin: float = 2.0
    """Pieces that the origin gives in a round, to all together."""
    dying: float = 0.0
    """Share of hosts that vanish when half of all is done; every second one says so."""
    slow: float = 0.0
    """Share with a tenth of the usual upload."""
    liars: float = 0.0
    """Share that gives wrong bytes only, and blames a parent for each second piece."""
    seed_number: int = 1
    rounds: int = 5000


@dataclass(slots=True)
class Outcomes:
    """What came of it."""

    finished: int = 0
    wanted: int = 0
    """Hosts that live and are honest."""
    rounds: int = 0
    median_round: int = 0
    origin_copies: float = 0.0
    seed_copies: float = 0.0
    """Given by seeds."""
    corrupt: int = 0
    """Wrong pieces that were noticed: all of them."""
    shunned_liars: int = 0
    shunned_honest: int = 0
    events: int = 0
    core_s: float = 0.0
    slowest_event_s: float = 0.0
    curve: list[int] = field(default_factory=list)
    """Hosts that were done, by round."""


class Simulation:
    """Runs one scenario."""

    def __init__(self, scenario: Scenario, limits: Limits | None = None) -> None:
        self.scenario = scenario
        self.rng = Random(scenario.seed_number)
        self.core = Scheduling(limits or Limits(), Random(scenario.seed_number + 1))
        self.everything = (1 << scenario.pieces) - 1
        self.told = 0
        """Bitmap of pieces whose digests were told."""
        self.from_origin = 0
        self.origin_credit = 0.0
        self.round = 0
        self.outcomes = Outcomes()
        self.hosts: dict[str, SimHost] = {}
        self.queue: deque[Event] = deque()
        self.open: list[SimHost] = []
        for number in range(scenario.seeds + scenario.hosts):
            self._add(number)

    def _add(self, number: int) -> None:
        scenario, rng = self.scenario, self.rng
        seed = number < scenario.seeds
        slow = not seed and rng.random() < scenario.slow
        liar = not seed and not slow and rng.random() < scenario.liars
        up = scenario.seed_up if seed else 0.1 if slow else 1.0
        host = SimHost(f"{rng.getrandbits(128):032x}", up, down=4 if seed else 1, seed=seed, liar=liar)
        host.phase = number
        self.hosts[host.id] = host

    def run(self) -> Outcomes:
        """Until all are done, or there are no rounds left."""
        with collecting_rarely():
            return self._run()

    def _run(self) -> Outcomes:
        for host in self.hosts.values():
            self._hello(host)
        everyone = [host for host in self.hosts.values() if not host.seed]
        self.rng.shuffle(everyone)
        for host in everyone:
            self._register(host)
        doomed = self._doomed(everyone)
        half = len(everyone) * self.scenario.pieces // 2
        while self._missing() and self.round < self.scenario.rounds:
            self.round += 1
            self._one_round()
            if doomed and sum(host.have.bit_count() for host in everyone) >= half:
                self._kill(doomed)
                doomed = []
            self.outcomes.curve.append(sum(host.done_round >= 0 for host in everyone))
        return self._finish(everyone)

    def _doomed(self, everyone: list[SimHost]) -> list[SimHost]:
        return self.rng.sample(everyone, int(len(everyone) * self.scenario.dying))

    def _missing(self) -> bool:
        self.open = [host for host in self.open if host.alive and host.done_round < 0]
        return any(not host.liar for host in self.open)

    def _one_round(self) -> None:
        giving = [host for host in self.hosts.values() if host.alive]
        for host in giving:
            host.credit = min(host.credit, 1.0) + host.up if host.up < 1 else host.up
        self.origin_credit = self.scenario.origin
        order = self.open[:]
        self.rng.shuffle(order)
        order.sort(key=lambda host: not host.owner)  # who is to fetch first asks first
        for host in order:
            self._take(host)
        for host in order:
            if host.gained:
                host.have |= host.gained
                host.gained = 0
                host.got_round = self.round
        for host in order:
            done = host.have == self.everything
            if done or (host.fresh and (self.round + host.phase) % _REPORT_ROUNDS == 0):
                self._report(host)
        self._time_passes(giving)

    def _take(self, host: SimHost) -> None:
        room = host.down
        if host.at_source:
            room -= self._from_source(host, room)
        if host.owner and room:
            room -= self._own_pieces(host, room)
        tries = _TRIES
        patient = self.round - host.got_round < _PATIENCE_ROUNDS
        while room and tries and host.order:
            tries -= 1
            parent = host.order[int(self.rng.random() * len(host.order))]
            if not parent.alive:
                self._gone(host, parent)
            elif parent.credit >= 1 and not (patient and parent.at_source):
                new = parent.have & self.told & ~(host.have | host.gained)
                if parent.liar and not new:
                    new = self.told & ~(host.have | host.gained)
                if new:
                    room -= self._move(parent, host, pick(new, self.scenario.pieces, self.rng))

    def _from_source(self, host: SimHost, room: int) -> int:
        """Pieces that nobody has, those that are its own among all at the source."""
        sources = sorted({host.id, *host.sources})
        took = 0
        lacking = self.everything & ~(host.have | host.gained) & ~self.told
        while lacking and took < room and self.origin_credit >= 1:
            lowest = lacking & -lacking
            lacking ^= lowest
            number = lowest.bit_length() - 1
            if sources[number % len(sources)] == host.id:
                self.origin_credit -= 1
                self.from_origin += 1
                took += 1
                self._got(host, number, "")
        return took

    def _own_pieces(self, host: SimHost, room: int) -> int:
        """Of pieces that this host owns and nobody it knows has: ask who is at the source."""
        owners, took = host.owners, 0
        for source in host.sources.values():
            new = source.have & self.told & ~(host.have | host.gained)
            while new and took < room and source.credit >= 1:
                lowest = new & -new
                new ^= lowest
                number = lowest.bit_length() - 1
                if owners[number % len(owners)] == host.id:
                    took += self._move(source, host, number)
        return took

    def _move(self, parent: SimHost, child: SimHost, number: int) -> int:
        parent.credit -= 1
        parent.uploaded += 1
        if parent.liar:
            self.outcomes.corrupt += 1
            self._tell(PieceFailed(child.id, child.peer, number, parent.id, FailReason.CORRUPT))
            return 1
        self._got(child, number, parent.id, 42 if parent.up >= 1 else 420)
        if child.liar and number % 2:
            self._tell(PieceFailed(child.id, child.peer, number, parent.id, FailReason.CORRUPT))
        return 1

    def _got(self, host: SimHost, number: int, parent: str, cost_ms: int = 42) -> None:
        host.gained |= 1 << number
        host.fresh.append(Piece(number, (number + 1).to_bytes(32, "big"), parent, cost_ms))
        if not parent:
            self._report(host)

    def _gone(self, host: SimHost, parent: SimHost) -> None:
        host.forget(parent.id)
        self._tell(PieceFailed(host.id, host.peer, 0, parent.id, FailReason.GONE))

    def _kill(self, doomed: list[SimHost]) -> None:
        for number, host in enumerate(doomed):
            host.alive = False
            if number % 2:
                self._tell(HostLeft(host.id))

    def _report(self, host: SimHost) -> None:
        fresh, host.fresh = tuple(host.fresh), []
        if fresh:
            self._tell(PiecesFinished(host.id, host.peer, fresh))
        if host.have == self.everything and host.done_round < 0:
            host.done_round = self.round
            self._tell(PeerFinished(host.id, host.peer, Outcome.SUCCEEDED))

    def _time_passes(self, giving: list[SimHost]) -> None:
        if self.round % _ALIVE_ROUNDS == 0:
            for host in giving:
                self._tell(HostAlive(host.id, int(host.up - host.credit > 0)))
        self._tell(Tick())
        ticks = _TOLD_TICKS
        while self.core.behind and ticks:
            ticks -= 1
            self._tell(Tick())

    # -- what is told to and by the scheduler

    def _hello(self, host: SimHost) -> None:
        kind = HostType.SEED if host.seed else HostType.NORMAL
        self._tell(HostHello(host_id=host.id, address=f"{host.id}:1", type=kind, upload_limit=32))

    def _register(self, host: SimHost) -> None:
        host.peer = host.id[::-1]
        self.open.append(host)
        spec = TaskSpec(task_id=_TASK, url="https://origin/content", seedable=self.scenario.seeds > 0)
        self._tell(PeerRegister(host.id, host.peer, spec))

    def _tell(self, event: Event) -> None:
        self.queue.append(event)
        if len(self.queue) > 1:
            return  # what follows from one event is told after all of its decisions were heard
        while self.queue:
            self._handle(self.queue[0])
            self.queue.popleft()

    def _handle(self, event: Event) -> None:
        began = time.thread_time()
        decisions = self.core.handle(event, self.round * ROUND_S)
        took = time.thread_time() - began
        self.outcomes.events += 1
        self.outcomes.core_s += took
        self.outcomes.slowest_event_s = max(self.outcomes.slowest_event_s, took)
        self._obey(decisions)

    def _obey(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Members():
                    self.hosts[decision.to[0]].hear(decision, self.hosts)
                case PieceDigests():
                    count = len(decision.digests) // 32
                    self.told |= ((1 << count) - 1) << decision.first
                case SeedTask():
                    self._register(self.hosts[decision.to[0]])
                case GoToSource():
                    self._go(self.hosts[decision.to[0]], revoked=decision.revoked)
                case Refused():
                    raise AssertionError(f"refused: {decision.why}")

    def _go(self, host: SimHost, *, revoked: bool) -> None:
        host.at_source = not revoked
        if not revoked:
            meta = Meta(content_bytes=self.scenario.pieces * _MIB, piece_bytes=_MIB)
            self._tell(TaskMeta(host.id, _TASK, meta))

    def _finish(self, everyone: list[SimHost]) -> Outcomes:
        found, pieces = self.outcomes, self.scenario.pieces
        rounds = sorted(host.done_round for host in everyone if host.done_round >= 0 and not host.liar)
        found.wanted = sum(host.alive and not host.liar for host in everyone)
        found.finished = sum(host.alive and not host.liar and host.done_round >= 0 for host in everyone)
        found.rounds = rounds[-1] if rounds else 0
        found.median_round = rounds[len(rounds) // 2] if rounds else 0
        found.origin_copies = self.from_origin / pieces
        found.seed_copies = sum(host.uploaded for host in self.hosts.values() if host.seed) / pieces
        shunned = [self.hosts[name] for name in self.core.state.court.sentences]
        found.shunned_liars = sum(host.liar for host in shunned)
        found.shunned_honest = sum(not host.liar for host in shunned)
        return found


def lower_bound_rounds(scenario: Scenario) -> float:
    """No swarm of equal links can be quicker: all pieces in, and the last of them doubled along."""
    return scenario.pieces + math.log2(scenario.hosts)
