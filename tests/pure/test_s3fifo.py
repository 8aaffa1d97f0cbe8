"""The eviction policy against a plain model of a cache: bounds, scan resistance, and FIFO as the rival."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.s3fifo import (
    MAX_FREQUENCY,
    Entry,
    Fill,
    Move,
    Queue,
    arrival_queue,
    plan_eviction,
    raise_frequency,
)


class Cache:
    """Carries out the policy's moves in memory, as the store does in LMDB."""

    def __init__(self, budget: int, ghosts: int = 1000) -> None:
        self.budget = budget
        self.queues: dict[Queue, OrderedDict[bytes, Entry]] = {
            queue: OrderedDict() for queue in (Queue.SMALL, Queue.MAIN, Queue.GHOST)
        }
        self.ghosts = ghosts

    def bytes_in(self, queue: Queue) -> int:
        return sum(entry.cost_bytes for entry in self.queues[queue].values())

    def read(self, digest: bytes, size: int = 1) -> bool:
        """A hit, or a miss that stores the chunk."""
        for queue in (Queue.SMALL, Queue.MAIN):
            entry = self.queues[queue].get(digest)
            if entry is not None:
                raised = raise_frequency(entry.frequency, 1)
                self.queues[queue][digest] = Entry(digest, entry.cost_bytes, raised)
                return True
        self.make_room(size)
        remembered = self.queues[Queue.GHOST].pop(digest, None) is not None
        self.queues[arrival_queue(remembered)][digest] = Entry(digest, size, 0)
        return False

    def make_room(self, size: int) -> list[Move]:
        small, main = self.queues[Queue.SMALL], self.queues[Queue.MAIN]
        fill = Fill(self.bytes_in(Queue.SMALL), self.bytes_in(Queue.MAIN), self.budget)
        want = fill.small_bytes + fill.main_bytes + size - self.budget
        moves = plan_eviction(small.values(), main.values(), fill, want) if want > 0 else []
        for move in moves:
            assert (small.pop(move.entry.digest, None) or main.pop(move.entry.digest, None)) is not None
            if move.to is not None:
                self.queues[move.to][move.entry.digest] = move.entry
        while len(self.queues[Queue.GHOST]) > self.ghosts:
            self.queues[Queue.GHOST].popitem(last=False)
        return moves


class Fifo:
    """The simplest rival."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.held: OrderedDict[bytes, None] = OrderedDict()

    def read(self, digest: bytes) -> bool:
        if digest in self.held:
            return True
        while len(self.held) >= self.budget:
            self.held.popitem(last=False)
        self.held[digest] = None
        return False


def name(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_hot_chunks_survive_a_long_scan() -> None:
    cache = Cache(100)
    hot = [name(number) for number in range(60)]
    for _ in range(2):
        for digest in hot:
            cache.read(digest)
    for number in range(1000, 11_000):
        cache.read(name(number))
    assert sum(cache.read(digest) for digest in hot) == len(hot)


def test_loses_fewer_favourites_to_a_scan_than_fifo() -> None:
    rng = random.Random(3)
    cache, fifo = Cache(200), Fifo(200)
    misses = fifo_misses = 0
    for step in range(40_000):
        # Two of three reads follow a Zipf-like law, the third belongs to a scan that never comes back.
        scan = step % 3 == 2
        digest = name(10_000_000 + step if scan else int(rng.paretovariate(0.9)) % 5000)
        hit, fifo_hit = cache.read(digest), fifo.read(digest)
        misses += not (scan or hit)
        fifo_misses += not (scan or fifo_hit)
    assert misses < fifo_misses / 2


def test_what_comes_back_soon_after_eviction_goes_to_main() -> None:
    cache = Cache(10)
    for number in range(11):
        cache.read(name(number))
    assert name(0) in cache.queues[Queue.GHOST]
    cache.read(name(0))
    assert name(0) in cache.queues[Queue.MAIN]


def test_patience_bounds_second_chances() -> None:
    main = [Entry(name(number), 1, MAX_FREQUENCY) for number in range(1000)]
    moves = plan_eviction([], main, Fill(0, 1000, 1000), 5, patience=20)
    assert len(moves) == 25
    assert [move.to for move in moves].count(None) == 5


def test_a_plan_reads_no_more_of_the_queues_than_it_needs() -> None:
    seen = 0

    def entries(first: int) -> Iterator[Entry]:
        nonlocal seen
        for number in range(first, first + 1000):
            seen += 1
            yield Entry(name(number), 10, 0)

    plan_eviction(entries(0), entries(1000), Fill(10_000, 10_000, 20_000), 30)
    assert seen == 3


@pytest.mark.parametrize("reads", [0, 1, 5, 1000])
def test_frequency_is_capped(reads: int) -> None:
    assert raise_frequency(2, reads) == min(2 + reads, MAX_FREQUENCY)


entry_lists = st.lists(st.tuples(st.integers(1, 50), st.integers(0, MAX_FREQUENCY)), max_size=40)


@given(small=entry_lists, main=entry_lists, want=st.integers(1, 3000), patience=st.integers(0, 60))
def test_a_plan_frees_what_is_asked_or_all_there_is(
    small: list[tuple[int, int]], main: list[tuple[int, int]], want: int, patience: int
) -> None:
    in_small = [Entry(name(n), size, frequency) for n, (size, frequency) in enumerate(small)]
    in_main = [Entry(name(1000 + n), size, frequency) for n, (size, frequency) in enumerate(main)]
    held = sum(size for size, _ in small + main)
    fill = Fill(sum(size for size, _ in small), sum(size for size, _ in main), max(held, 1))
    moves = plan_eviction(in_small, in_main, fill, want, patience)
    gone = [move for move in moves if move.to in (None, Queue.GHOST)]
    freed = sum(move.entry.cost_bytes for move in gone)
    assert freed >= min(want, held)
    # Nothing more than needed: without the last eviction it would not have been enough.
    assert not gone or freed - gone[-1].entry.cost_bytes < want
    assert len({move.entry.digest for move in moves}) == len(moves)
    assert {move.entry.digest for move in moves} <= {entry.digest for entry in in_small + in_main}
    assert all(0 <= move.entry.frequency <= MAX_FREQUENCY for move in moves)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=200))
def test_the_cache_stays_within_its_budget(reads: list[tuple[int, int]]) -> None:
    cache = Cache(40, ghosts=10)
    sizes: dict[int, int] = {}
    for number, size in reads:
        cache.read(name(number), sizes.setdefault(number, size))
        assert cache.bytes_in(Queue.SMALL) + cache.bytes_in(Queue.MAIN) <= 40
        held = [set(queue) for queue in cache.queues.values()]
        assert not held[0] & held[1]
        assert not (held[0] | held[1]) & held[2]
