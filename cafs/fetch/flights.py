"""Flights: one for each chunk that somebody wants and nobody has yet, and the queue they wait in.

A ``Flight`` is joined by whoever wants its chunk from the same sources (``under_way``), and ends with its
last waiter. ``FlightQueue`` hands out runs of flights that are near each other in a blob, the most urgent
first. Nothing here does I/O or waits; the service drives it from its trio thread.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

import trio

from cafs.core.backoff import Answer
from cafs.core.chunk import ChunkRef
from cafs.core.distance import Distances
from cafs.core.readplan import coalesce
from cafs.core.source import BlobRef, BlobSource, Span, most_ranges
from cafs.errors import CafsError
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.plain_cache import Plain

_SCATTERED = frozenset((Priority.READAHEAD, Priority.PROFILE))
"""What is fetched in the order in which it will be read, not in that in which it lies."""


@dataclass(frozen=True, eq=False, slots=True)
class Origin:
    """A blob and who has it. Compared by identity: a layer makes one for each of its blobs."""

    layer: str
    """diffID of the layer, for messages."""
    blob: BlobRef
    sources: tuple[BlobSource, ...]


class State(Enum):
    """Where a flight is."""

    LOOKUP = auto()
    """The store is being asked."""
    QUEUED = auto()
    FETCHING = auto()
    RESTING = auto()
    """Waits before it is tried again."""
    DONE = auto()


class Flight:
    """One chunk on its way.

    ``waiters`` counts everybody who wants it, readers and prefetchers alike. When it falls to zero the
    flight is dropped, unless other chunks of the same request are still wanted.
    """

    __slots__ = (
        "_arrived",
        "answers",
        "failure",
        "group",
        "next_source",
        "origin",
        "plain",
        "priority",
        "recorded",
        "ref",
        "rides",
        "state",
        "waiters",
    )

    def __init__(self, ref: ChunkRef, origin: Origin, priority: Priority) -> None:
        self.ref = ref
        self.origin = origin
        self.priority = priority
        self.state = State.LOOKUP
        self.waiters = 0
        self.next_source = 0
        """Number of the source to ask."""
        self.answers: list[Answer] = []
        self.group: Group | None = None
        """The request that brings it, while it is FETCHING."""
        self.plain: Plain | None = None
        self.failure: CafsError | None = None
        self.rides = False
        """It may travel in a reader's next request, though nobody waits for it."""
        self.recorded = False
        """Its failure is in the journal."""
        self._arrived: trio.Event | None = None

    @property
    def done(self) -> bool:
        """It has ended: with ``plain`` or with ``failure``."""
        return self.state is State.DONE

    async def wait(self) -> None:
        """Wait until the chunk is here or has failed."""
        if self.state is not State.DONE:
            if self._arrived is None:
                self._arrived = trio.Event()
            await self._arrived.wait()

    def finish(self, plain: Plain | None, failure: CafsError | None = None) -> None:
        """The end: wake everybody who waits."""
        self.plain, self.failure, self.state = plain, failure, State.DONE
        self.group = None  # breaks the cycle that would keep the bytes until the next garbage collection
        if self._arrived is not None:
            self._arrived.set()

    @property
    def source(self) -> BlobSource:
        """The one to ask next."""
        return self.origin.sources[self.next_source]

    @property
    def what(self) -> str:
        """For messages."""
        return f"chunk {self.ref.digest.hex()[:16]} of layer {self.origin.layer}"


class Run(NamedTuple):
    """Flights whose frames lie in one range of a blob."""

    span: Span
    flights: Sequence[Flight]


class Group:
    """Flights that one request brings: for a range, or for several."""

    __slots__ = ("flights", "length", "origin", "priority", "runs", "scope", "source_number")

    def __init__(self, runs: Sequence[Run], priority: Priority) -> None:
        self.runs = tuple(runs)
        self.flights = [flight for run in runs for flight in run.flights]
        self.priority = priority
        self.length = sum(run.span.length for run in runs)
        self.origin = self.flights[0].origin
        self.source_number = self.flights[0].next_source
        self.scope = trio.CancelScope()

    @property
    def source(self) -> BlobSource:
        """Who is asked."""
        return self.origin.sources[self.source_number]

    def wanted(self) -> bool:
        """Does anybody still wait for any of it?"""
        return any(flight.waiters for flight in self.flights)


class FlightQueue:
    """Flights waiting for a request, by priority and by place in their blob."""

    def __init__(self, limits: FetchLimits, distances: Distances) -> None:
        self._limits = limits
        self._distances = distances
        self._by_priority: dict[Priority, dict[str, dict[Flight, None]]] = {p: {} for p in Priority}
        """And by name of the source that is to be asked."""
        self._by_place: dict[Origin, list[tuple[int, int, int, Flight]]] = {}

    def add(self, flight: Flight) -> None:
        """Queue a flight, behind those of its priority that ask the same source."""
        flight.state = State.QUEUED
        self._line_up(flight)
        insort(self._by_place.setdefault(flight.origin, []), _place(flight))

    def remove(self, flight: Flight) -> None:
        """Take a flight out of the queue."""
        self._step_out(flight)
        places = self._by_place[flight.origin]
        del places[bisect_left(places, _place(flight))]
        if not places:
            del self._by_place[flight.origin]

    def hasten(self, flight: Flight, priority: Priority) -> None:
        """Somebody more urgent wants it too."""
        if priority >= flight.priority:
            return
        if flight.state is State.QUEUED:
            self._step_out(flight)
            flight.priority = priority
            self._line_up(flight)
        flight.priority = priority

    def _line_up(self, flight: Flight) -> None:
        self._by_priority[flight.priority].setdefault(flight.source.name, {})[flight] = None

    def _step_out(self, flight: Flight) -> None:
        lines, name = self._by_priority[flight.priority], flight.source.name
        del lines[name][flight]
        if not lines[name]:
            del lines[name]

    def take(self, active: list[int], by_source: Mapping[str, int], fill_range_bytes: int) -> Group | None:
        """The next request to start, if the limits let one start beside the active ones.

        Args:
            active: How many there are of each priority.
            by_source: How many ask the source of a name.
            fill_range_bytes: How long one of the fill may be.
        """
        for priority in Priority:
            lines = self._by_priority[priority]
            for name, line in lines.items():
                asked, distance = by_source.get(name, 0), self._distances.of(name)
                if self._limits.may_start(priority, active, asked, distance):
                    lines[name] = lines.pop(name)  # the other sources' turn comes first next time
                    return self._take(self._next_runs(next(iter(line)), fill_range_bytes), priority)
        return None

    def _next_runs(self, first: Flight, fill_range_bytes: int) -> list[Run]:
        priority, ranges = first.priority, most_ranges(first.source)
        longest = fill_range_bytes if priority is Priority.FILL else self._limits.range_bytes(priority)
        if priority in _SCATTERED and ranges > 1 and not first.answers:
            return self._runs_in_turn(first, longest, ranges)
        return [self._run_around(first, longest)]

    def _runs_in_turn(self, first: Flight, longest: int, most: int) -> list[Run]:
        """``first`` and what was queued behind it, wherever it lies in the blob."""
        size, turns = 0, dict[Flight, int]()
        for flight in self._by_priority[first.priority][first.source.name]:
            if flight.origin is first.origin and flight.next_source == first.next_source:
                size += flight.ref.frame_bytes
                if turns and (size > longest or flight.answers):
                    break
                turns[flight] = len(turns)
        runs = self._runs_of(list(turns), longest)
        return sorted(runs, key=lambda run: min(map(turns.__getitem__, run.flights)))[:most]

    def _run_around(self, first: Flight, longest: int) -> Run:
        """``first`` and what is queued near it in the blob.

        A request for a reader brings nothing but its riders that no reader waits for: that would delay
        him. A retry travels with those that have come to the same source.
        """
        places = self._by_place[first.origin]
        begin = bisect_left(places, (first.ref.offset - longest,))
        near = [
            flight
            for *_, flight in places[begin : bisect_left(places, (first.ref.offset + longest,))]
            if flight.next_source == first.next_source
            and (first.priority is not Priority.DEMAND or flight.priority is first.priority or flight.rides)
        ]
        return next(run for run in self._runs_of(near, longest) if first in run.flights)

    def _runs_of(self, flights: Sequence[Flight], longest: int) -> list[Run]:
        ranges = coalesce(
            [(flight.ref.offset, flight.ref.frame_bytes) for flight in flights],
            max_bytes=longest,
            max_gap_bytes=self._limits.gap_bytes,
        )
        return [Run(Span(one.offset, one.length), [flights[i] for i in one.members]) for one in ranges]

    def _take(self, runs: Sequence[Run], priority: Priority) -> Group:
        group = Group(runs, priority)
        for flight in group.flights:
            self.remove(flight)
            flight.state, flight.group = State.FETCHING, group
        return group


def _place(flight: Flight) -> tuple[int, int, int, Flight]:
    # The id keeps the comparison of two flights at one place (a hostile table) from reaching the flights.
    return (flight.ref.offset, flight.ref.frame_bytes, id(flight), flight)
