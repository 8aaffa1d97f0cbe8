"""Whose pieces may be begun: the host's places, and what a more urgent download leaves of them."""

from __future__ import annotations

from cafs.core.swarm.ids import task_id
from cafs.p2p.means import Flights

A, B, C = (task_id(f"http://o.example/{name}") for name in "abc")
MIB = 1 << 20


def test_the_less_urgent_share_a_quarter_of_the_places() -> None:
    flights = Flights(priorities={A: 3, B: 3})
    assert flights.room(A, 8, MIB) == 8
    for _ in range(3):
        flights.take(A, MIB)
    flights.priorities[C] = 4
    assert [flights.room(task, 8, MIB) for task in (A, B, C)] == [0, 0, 5]
    flights.give(A, MIB)
    flights.give(A, MIB)
    assert [flights.room(task, 8, MIB) for task in (A, B, C)] == [1, 1, 7]
    del flights.priorities[C]
    assert flights.room(B, 8, MIB) == 7


def test_memory_bounds_large_pieces() -> None:
    flights = Flights()
    assert flights.room(A, 32, 16 * MIB) == 3
    flights.take(A, 16 * MIB)
    assert (flights.room(A, 32, 16 * MIB), flights.pieces, flights.of(A)) == (2, 1, 1)
