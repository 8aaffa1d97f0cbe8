"""A scheduler's core to play with: short ids, short events, and what its decisions left each host knowing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cafs.core.scheduling.core import Scheduling
from cafs.core.scheduling.decisions import (
    Candidate,
    Decision,
    ForgetTask,
    GoToSource,
    Members,
    PieceDigests,
    Refused,
    SeedTask,
    TellMeta,
)
from cafs.core.scheduling.events import (
    Event,
    FailReason,
    Held,
    HostHello,
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

MIB = 1 << 20


def host_id(number: int) -> str:
    return f"{number:032x}"


def task_id(number: int) -> str:
    return f"{number:064x}"


def digest_of(task: str, number: int) -> bytes:
    return (int(task, 16) * 1000 + number + 1).to_bytes(32, "big")


@dataclass
class Known:
    """What one host was told."""

    members: dict[str, dict[str, Candidate]] = field(default_factory=lambda: defaultdict(dict))
    versions: dict[str, int] = field(default_factory=dict)
    digests: dict[tuple[str, int], bytes] = field(default_factory=dict)
    metas: dict[str, Meta] = field(default_factory=dict)
    at_source: set[str] = field(default_factory=set)
    seeds: list[TaskSpec] = field(default_factory=list)
    refused: dict[str, Refused] = field(default_factory=dict)
    forgotten: list[ForgetTask] = field(default_factory=list)


class Cluster:
    """The core, a clock, and what it told everybody."""

    def __init__(self, limits: Limits | None = None, seed: int = 0) -> None:
        self.core = Scheduling(limits or Limits(), Random(seed))
        self.now = 100.0
        self.told: dict[str, Known] = defaultdict(Known)
        self.last: list[Decision] = []

    def __call__(self, event: Event) -> list[Decision]:
        self.last = self.core.handle(event, self.now)
        for decision in self.last:
            for to in decision.to:
                self._hear(self.told[to], decision)
        return self.last

    def _hear(self, known: Known, decision: Decision) -> None:
        match decision:
            case Members():
                members = known.members[decision.task_id]
                if decision.whole:
                    assert decision.version == 1
                    members.clear()
                else:
                    assert decision.version == known.versions[decision.task_id] + 1
                known.versions[decision.task_id] = decision.version
                for host in decision.gone:
                    members.pop(host, None)
                members.update({member.host_id: member for member in decision.members})
            case PieceDigests():
                for place in range(len(decision.digests) // 32):
                    digest = decision.digests[place * 32 : place * 32 + 32]
                    key = (decision.task_id, decision.first + place)
                    assert known.digests.setdefault(key, digest) == digest, "a digest changed"
            case TellMeta():
                known.metas[decision.task_id] = decision.meta
            case GoToSource():
                (known.at_source.discard if decision.revoked else known.at_source.add)(decision.peer_id)
            case SeedTask():
                known.seeds.append(decision.spec)
            case Refused():
                known.refused[decision.peer_id] = decision
            case ForgetTask():
                known.forgotten.append(decision)

    def hello(
        self,
        number: int,
        address: str = "",
        *,
        seed: bool = False,
        held: tuple[Held, ...] = (),
        **more: Any,
    ) -> None:
        fields: dict[str, Any] = {"upload_limit": 16, **more}
        self(
            HostHello(
                host_id=host_id(number),
                address=address or f"10.0.{number >> 8}.{number & 255}:65001",
                hostname=f"host-{number}",
                type=HostType.SEED if seed else HostType.NORMAL,
                held=held,
                **fields,
            )
        )

    def register(self, host: int, task: int = 1, peer: str = "", **more: Any) -> str:
        """Returns the peer id."""
        peer = peer or f"{task:016x}{host:016x}"
        whole = bool(more.pop("whole", True))
        chunks_only = bool(more.pop("chunks_only", False))
        spec = TaskSpec(task_id=task_id(task), url="https://origin/file", **more)
        self(PeerRegister(host_id(host), peer, spec, whole, chunks_only))
        return peer

    def meta(self, host: int, pieces: int, task: int = 1) -> None:
        meta = Meta(content_bytes=pieces * MIB, piece_bytes=MIB)
        self(TaskMeta(host_id(host), task_id(task), meta))

    def got(self, host: int, numbers: range | list[int], task: int = 1, parent: int | None = None) -> None:
        known, peer = self.known(host), f"{task:016x}{host:016x}"
        assert known is not None
        name = task_id(task)
        pieces = tuple(
            Piece(n, digest_of(name, n), "" if parent is None else host_id(parent), 20) for n in numbers
        )
        self(PiecesFinished(host_id(host), peer, pieces))

    def failed(self, host: int, parent: int | None, reason: FailReason, task: int = 1) -> None:
        name = "" if parent is None else host_id(parent)
        self(PieceFailed(host_id(host), f"{task:016x}{host:016x}", 0, name, reason))

    def finished(
        self, host: int, outcome: Outcome = Outcome.SUCCEEDED, task: int = 1, status: int = 0
    ) -> None:
        reason = "" if outcome is Outcome.SUCCEEDED else f"the origin said {status}"
        self(PeerFinished(host_id(host), f"{task:016x}{host:016x}", outcome, reason, status))

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Ticks; nobody says that it is alive."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self(Tick())

    def known(self, host: int) -> Known:
        return self.told[host_id(host)]

    def parents(self, host: int, task: int = 1) -> dict[str, Candidate]:
        return self.known(host).members[task_id(task)]

    def goes(self, host: int, task: int = 1) -> bool:
        """It was told to go to the source."""
        return f"{task:016x}{host:016x}" in self.known(host).at_source
