"""What is known of hosts, tasks, their members, and downloads. Plain records: the modules beside this decide.

A *member* is a host in the swarm of one task: it holds pieces, or downloads, or both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Generic, TypeVar

from cafs.core.scheduling.events import HostHello, TaskSpec
from cafs.core.scheduling.explain import Decided
from cafs.core.scheduling.health import Health
from cafs.core.scheduling.notary import Notary
from cafs.core.scheduling.states import (
    HOST_TABLE,
    PEER_TABLE,
    TASK_TABLE,
    UNFINISHED,
    HostState,
    HostStep,
    PeerState,
    PeerStep,
    TaskState,
    TaskStep,
    take,
)

_T = TypeVar("_T")


class Crowd(Generic[_T]):
    """A set out of which some can be drawn at random in a time that does not grow with it."""

    __slots__ = ("_items", "_places")

    def __init__(self) -> None:
        self._items: list[_T] = []
        self._places: dict[_T, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: _T) -> bool:
        return item in self._places

    def __iter__(self) -> Iterator[_T]:
        return iter(self._items)

    def add(self, item: _T) -> None:
        """Put it in, once."""
        if item not in self._places:
            self._places[item] = len(self._items)
            self._items.append(item)

    def discard(self, item: _T) -> None:
        """Take it out, if it is there; the last one takes its place."""
        place = self._places.pop(item, None)
        if place is None:
            return
        last = self._items.pop()
        if place < len(self._items):
            self._items[place] = last
            self._places[last] = place

    def draw(self, count: int, rng: Random) -> list[_T]:
        """Different ones: all when they are not more than ``count``, else nearly so many."""
        items, size, random = self._items, len(self._items), rng.random
        if size <= count:
            begin = int(random() * size)
            return items[begin:] + items[:begin]
        tries = count if size > 4 * count else 2 * count
        places = {int(random() * size) for _ in range(tries)}
        return [items[place] for place in islice(places, count)]


@dataclass(slots=True, eq=False)
class Host:
    """A machine."""

    hello: HostHello
    state: HostState = HostState.NEW
    seen_at: float = 0.0
    uploads: int = 0
    upload_limit: int = 0
    upload_bytes_per_s: int = 0
    download_bytes_per_s: int = 0
    children: int = 0
    """Peers that were told of it, in all tasks."""
    members: dict[str, Member] = field(default_factory=dict)
    """By task id."""
    peers: set[str] = field(default_factory=set)
    """Downloads under way."""
    health: Health = field(default_factory=Health)

    @property
    def id(self) -> str:
        return self.hello.host_id

    def step(self, step: HostStep) -> None:
        """Change state as the table says."""
        self.state = take(HOST_TABLE, self.state, step)


@dataclass(slots=True, eq=False)
class Peer:
    """One download."""

    id: str
    member: Member
    state: PeerState = PeerState.RUNNING
    whole: bool = True
    was_at_source: bool = False
    """Its digests are the notary's, for what it gets from the source."""
    source_failed: bool = False
    progress_at: float = 0.0
    checked_at: float = 0.0
    """When it was seen to last; never after ``progress_at``."""
    stalls: int = 0
    origin_failures: int = 0
    """At the source, since its last piece from there."""

    @property
    def unfinished(self) -> bool:
        return self.state in UNFINISHED

    def step(self, step: PeerStep) -> None:
        """Change state as the table says."""
        self.state = take(PEER_TABLE, self.state, step)


@dataclass(slots=True, eq=False)
class Member:
    """A host in one task's swarm."""

    host: Host
    task: Task
    peer: Peer | None = None
    have: int = 0
    complete: bool = False
    owner: bool = False
    shunned: bool = False
    """What it has does not count."""
    parents: dict[Member, None] = field(default_factory=dict)
    """Those it was told of, or will be at the next flush."""
    children: dict[Member, None] = field(default_factory=dict)
    changed: dict[Member, float | None] = field(default_factory=dict)
    """Parents to be told of; the score, where it was just computed."""
    gone: dict[str, None] = field(default_factory=dict)
    """Host ids of parents to be taken back."""
    avoided: dict[str, float] = field(default_factory=dict)
    """Host ids that it could not reach, and until when they are not offered again."""
    version: int = 0

    @property
    def at_source(self) -> bool:
        return self.peer is not None and self.peer.state is PeerState.AT_SOURCE

    @property
    def listens(self) -> bool:
        """It wants to hear of members."""
        peer = self.peer
        return peer is not None and (peer.state in UNFINISHED or peer.state is PeerState.EXCHANGING)

    @property
    def exchanging(self) -> bool:
        return self.peer is not None and self.peer.state is PeerState.EXCHANGING


@dataclass(slots=True, eq=False)
class Task:
    """A content."""

    spec: TaskSpec
    notary: Notary
    decided: deque[Decided]
    state: TaskState = TaskState.IDLE
    members: dict[str, Member] = field(default_factory=dict)
    """By host id."""
    crowd: Crowd[Member] = field(default_factory=Crowd)
    """Members that may be parents."""
    owners: dict[Member, None] = field(default_factory=dict)
    seeds: dict[Member, None] = field(default_factory=dict)
    """Members whose hosts are seeds."""
    active: dict[Peer, None] = field(default_factory=dict)
    """Unfinished downloads that want pieces."""
    at_source: dict[Peer, None] = field(default_factory=dict)
    seeding: str = ""
    """The seed that was told to fetch it and has not begun."""
    seeding_until: float = 0.0
    failed_seeds: set[str] = field(default_factory=set)
    complete: int = 0
    """Members, not shunned, that have all of it."""
    covered: bool = False
    """Known to be whole among its members; False: count anew."""
    source_failures: int = 0
    """Of peers, in a row."""
    source_failed_until: float = 0.0
    source_said: str = ""
    source_status: int = 0
    bad_content: set[str] = field(default_factory=set)
    """Hosts that found the whole digest wrong."""
    source_pieces: int = 0
    swarm_pieces: int = 0
    used_at: float = 0.0
    checked_at: float = 0.0
    """When it was seen to last: used, or found to be kept."""
    told_at: float = 0.0
    """When digests were told last."""
    quarantined_until: float = 0.0

    @property
    def id(self) -> str:
        return self.spec.task_id

    @property
    def listeners(self) -> int:
        return len(self.active)

    def step(self, step: TaskStep) -> None:
        """Change state as the table says."""
        self.state = take(TASK_TABLE, self.state, step)
