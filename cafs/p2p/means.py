"""What all downloads of a host share: its parts, and how much of it they may use at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cafs.core.statistics.shares import Shares
from cafs.core.swarm.ids import HostId, TaskId
from cafs.core.swarm.messages import Member
from cafs.core.swarm.task import TaskSpec
from cafs.core.tracing import UNTRACED, Tracer
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.parent_client import ParentClient
from cafs.p2p.reader_figures import ReaderFigures
from cafs.p2p.schedulers import Schedulers
from cafs.p2p.source import Sources
from cafs.p2p.task_store import TaskStore
from cafs.p2p.traffic import Traffic
from cafs.p2p.wish_policy import WishPolicy

IN_FLIGHT_BYTES = 48 << 20
"""Of pieces that are being received or verified, of all downloads together."""
SHARE_OF_LESS_URGENT = 4
"""While a more urgent download is under way, all others together have the n-th part of the places."""


@dataclass(slots=True)
class DownloadFigures:
    """What was done since the start."""

    peer_bytes: int = 0
    """Pieces of other hosts, verified."""
    seed_bytes: int = 0
    """Of these, from seeds."""
    source_bytes: int = 0
    good_pieces: int = 0
    """From wherever."""
    wrong_pieces: int = 0
    failed_pieces: int = 0
    begun: int = 0
    succeeded: int = 0
    failed: int = 0
    unforeseen: int = 0
    """Ended by a mistake of ours."""


@dataclass(slots=True)
class Flights:
    """Pieces under way, from hosts and from the source, and whose they are."""

    bytes: int = 0
    priorities: dict[TaskId, int] = field(default_factory=dict)
    """Of the downloads under way; there is one of a task."""
    _of: Counter[TaskId] = field(default_factory=Counter)

    @property
    def pieces(self) -> int:
        return self._of.total()

    def of(self, task: TaskId) -> int:
        """Its pieces."""
        return self._of[task]

    def take(self, task: TaskId, size: int) -> None:
        """One of so many bytes begins."""
        self._of[task] += 1
        self.bytes += size

    def give(self, task: TaskId, size: int) -> None:
        """It is over."""
        self._of[task] -= 1
        self.bytes -= size
        if not self._of[task]:
            del self._of[task]

    def room(self, task: TaskId, most_pieces: int, piece_bytes: int) -> int:
        """How many more of its pieces may be begun now."""
        room = min(most_pieces - self.pieces, (IN_FLIGHT_BYTES - self.bytes) // piece_bytes)
        top = max(self.priorities.values(), default=0)
        if self.priorities.get(task, top) < top:
            most = min(most_pieces, IN_FLIGHT_BYTES // piece_bytes)
            others = sum(self._of[less] for less, priority in self.priorities.items() if priority < top)
            room = min(room, max(1, most // SHARE_OF_LESS_URGENT) - others)
        return max(0, room)


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Made once, by the program."""

    me: HostId
    tasks: TaskStore
    parents: ParentClient
    sources: Sources
    schedulers: Schedulers
    limits: LiveLimits
    policy: WishPolicy = field(default_factory=WishPolicy)
    tracer: Tracer = UNTRACED
    figures: DownloadFigures = field(default_factory=DownloadFigures)
    flights: Flights = field(default_factory=Flights)
    traffic: Traffic = field(default_factory=Traffic)
    shares: Shares = field(default_factory=Shares)
    readers: ReaderFigures = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "readers", ReaderFigures(self.shares))

    def note_piece(self, spec: TaskSpec, count: int, parent: Member | None) -> None:
        """A verified piece came: from a parent, or (None) from the source."""
        self.figures.good_pieces += 1
        if parent is None:
            self.figures.source_bytes += count
            name = "origin_bytes"
        else:
            self.figures.peer_bytes += count
            self.figures.seed_bytes += count if parent.seed else 0
            name = "seed_bytes" if parent.seed else "peer_bytes"
        self.traffic.note(spec.task_id, count, parent.address if parent is not None else None)
        self.shares.note(spec.task_id, spec.application, pieces_succeeded=1, **{name: count})
