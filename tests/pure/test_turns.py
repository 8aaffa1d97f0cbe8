"""Which reads get a place, and which wait for their turn."""

from __future__ import annotations

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from cafs.fuse.protocol import Read
from cafs.fuse.turns import Turns

_uniques = count(2, 2)


def read_of(node: int) -> Read:
    return Read(next(_uniques), node, 0, 4096, 1)


def take_all(turns: Turns) -> list[Read]:
    return list(iter(turns.take, None))


def test_one_file_gets_half_of_the_places_and_each_further_one_its_share() -> None:
    turns = Turns(64)
    for _ in range(100):
        turns.park(read_of(1))
    first = take_all(turns)
    assert len(first) == 32
    for _ in range(100):
        turns.park(read_of(2))
    assert len(take_all(turns)) == 16
    turns.park(read_of(3))
    assert [read.nodeid for read in take_all(turns)] == [3]
    for read in first[:17]:
        turns.end(read)
    assert Counter(read.nodeid for read in take_all(turns)) == {1: 6, 2: 5}


def test_reads_of_a_file_keep_their_order_and_may_be_dropped() -> None:
    turns = Turns(4)
    reads = [read_of(1) for _ in range(5)]
    for read in reads:
        turns.park(read)
    assert take_all(turns) == reads[:2]
    assert not turns.drop(1, reads[0].unique)
    assert turns.drop(1, reads[2].unique)
    turns.end(reads[0])
    assert take_all(turns) == [reads[3]]
    assert turns.drop(1, reads[4].unique)
    turns.end(reads[1])
    assert take_all(turns) == []


@given(st.lists(st.integers(0, 9), max_size=200), st.integers(1, 20))
def test_every_read_gets_its_turn_and_no_file_keeps_out_another(nodes: list[int], places: int) -> None:
    turns, under_way, done = Turns(places), list[Read](), 0
    for node in nodes:
        turns.park(read_of(node))
        under_way += take_all(turns)
        assert len(under_way) == places or any(read.nodeid == node for read in under_way)
    while under_way:
        turns.end(under_way.pop(0))
        done += 1
        under_way += take_all(turns)
        assert len(under_way) <= places
    assert done == len(nodes)
