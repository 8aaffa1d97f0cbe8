"""Which chunks a full store gives up: S3-FIFO, as pure decisions.

Three first-in first-out queues. A new chunk enters *small*; one that was read again before it reaches
the head moves to *main*, one that was not is evicted and its name is remembered in *ghost*; a chunk
that comes back while its name is in ghost goes straight to main. Main gives an entry that was read one
more round for each read. So a scan of many chunks that are read once passes through small and leaves
main alone. Source: Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.

One difference from the paper: one read is enough to be promoted (the paper: two), because the memory
cache above the store and the kernel's page cache swallow the quick second reads; what the store still
sees is a real return. Pinned chunks are in no queue that is looked at here.

Used by ``cafs.store``, which reads the queues, carries out the moves, and keeps all state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

MAX_FREQUENCY = 3
SMALL_SHARE = 10
"""Percent of the budget that the small queue may hold before it is the one to give."""


class Queue(IntEnum):
    """Where a chunk stands."""

    SMALL = 0
    MAIN = 1
    PINNED = 2
    GHOST = 3
    """Only the name is left."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored chunk, as the policy sees it."""

    digest: bytes
    cost_bytes: int
    frequency: int


@dataclass(frozen=True, slots=True)
class Move:
    """To the tail of queue ``to``; ``None`` forgets the chunk. ``GHOST`` and ``None`` delete its bytes."""

    entry: Entry
    to: Queue | None


@dataclass(frozen=True, slots=True)
class Fill:
    """What the two queues hold, in bytes, and the budget they share."""

    small_bytes: int
    main_bytes: int
    budget_bytes: int


def arrival_queue(remembered: bool) -> Queue:
    """Where a new chunk goes; ``remembered``: its name is in ghost."""
    return Queue.MAIN if remembered else Queue.SMALL


def raise_frequency(frequency: int, reads: int) -> int:
    """The frequency after so many more reads."""
    return min(frequency + reads, MAX_FREQUENCY)


def plan_eviction(
    small: Iterable[Entry], main: Iterable[Entry], fill: Fill, want_bytes: int, patience: int = 1024
) -> list[Move]:
    """Decide how to free at least ``want_bytes``.

    Args:
        small: The small queue from its head; read lazily.
        main: The main queue from its head; read lazily.
        fill: What both hold now.
        want_bytes: To free; less is freed only when both queues run empty.
        patience: How many second chances are given before entries go regardless of their frequency:
            bounds the work of one plan, and so the length of a store transaction.

    Returns:
        At most one move per chunk, in the order in which they enter the queues' tails.
    """
    return _Plan(iter(small), iter(main), fill, patience).run(want_bytes)


class _Plan:
    def __init__(self, small: Iterator[Entry], main: Iterator[Entry], fill: Fill, patience: int) -> None:
        self._small = small
        self._main = main
        self._again: deque[Entry] = deque()
        """Entries this plan put to main's tail: they come round after all that were there before."""
        self._small_bytes = fill.small_bytes
        self._small_limit = fill.budget_bytes * SMALL_SHARE // 100
        self._patience = patience
        self._freed = 0
        self._moves: dict[bytes, Move] = {}

    def run(self, want_bytes: int) -> list[Move]:
        while self._freed < want_bytes:
            first, second = self._from_small, self._from_main
            if self._small_bytes < self._small_limit:
                first, second = second, first
            if not (first() or second()):
                break
        return list(self._moves.values())

    def _from_small(self) -> bool:
        entry = next(self._small, None)
        if entry is None:
            return False
        self._small_bytes -= entry.cost_bytes
        if entry.frequency > 0 and self._patience > 0:
            self._give_chance(replace(entry, frequency=0))
        else:
            self._evict(entry, Queue.GHOST)
        return True

    def _from_main(self) -> bool:
        entry = next(self._main, None)
        if entry is None:
            if not self._again:
                return False
            entry = self._again.popleft()
        if entry.frequency > 0 and self._patience > 0:
            self._give_chance(replace(entry, frequency=entry.frequency - 1))
        else:
            self._evict(entry, None)
        return True

    def _give_chance(self, entry: Entry) -> None:
        self._patience -= 1
        self._again.append(entry)
        self._note(Move(entry, Queue.MAIN))

    def _evict(self, entry: Entry, to: Queue | None) -> None:
        self._freed += entry.cost_bytes
        self._note(Move(entry, to))

    def _note(self, move: Move) -> None:
        # Taken out first, so that the dict's order is the order of the last moves.
        self._moves.pop(move.entry.digest, None)
        self._moves[move.entry.digest] = move
