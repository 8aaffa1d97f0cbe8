"""By which way hosts reach the manager."""

from __future__ import annotations

from collections import Counter
from random import Random

from cafs.daemon.manager_ways import Way, Ways

SCHEDULERS = [f"10.0.0.{number}:65010" for number in range(1, 5)]
DIRECT = [Way(f"10.0.1.{number}:65003", by_scheduler=False) for number in (1, 2)]


def ways(host: int = 1) -> Ways:
    return Ways(f"{host:032x}", [way.address for way in DIRECT], Random(1))


def failing(by: Ways, times: int, schedulers: list[str] = SCHEDULERS) -> list[Way]:
    """Those that it tries, one after the other."""
    tried = []
    for _ in range(times):
        tried.append(by.next(schedulers, 0))
        by.failed(tried[-1], 0, for_long=False)
    return tried


def test_two_schedulers_then_the_manager_and_again_with_its_next_replica() -> None:
    tried = failing(ways(), 6)
    assert [way.by_scheduler for way in tried] == 2 * [True, True, False]
    assert tried[:2] == tried[3:5]
    assert [tried[2], tried[5]] == DIRECT


def test_without_schedulers_each_replica_in_turn() -> None:
    assert failing(ways(), 3, []) == [*DIRECT, DIRECT[0]]


def test_hosts_spread_over_schedulers_and_keep_to_one() -> None:
    first = [ways(host).next(SCHEDULERS, 0).address for host in range(400)]
    assert min(Counter(first).values()) > 60
    without = SCHEDULERS[1:]
    moved = [ways(host).next(without, 0).address for host in range(400)]
    assert all(new == old for old, new in zip(first, moved, strict=True) if old in without)


def test_once_it_was_up_it_begins_at_the_first() -> None:
    by = ways()
    first, second = failing(by, 2)
    by.holds()
    assert by.next(SCHEDULERS, 0) == first
    assert by.better(first, SCHEDULERS, 0) == []
    assert by.better(second, SCHEDULERS, 0) == [first]
    assert by.better(DIRECT[0], SCHEDULERS, 0) == by.better(DIRECT[1], SCHEDULERS, 0) == [first, second]
    assert by.better(first, [], 0) == by.better(DIRECT[0], [], 0) == []


def test_a_scheduler_that_passes_nobody_on_is_not_asked_for_a_while() -> None:
    by, only = ways(), SCHEDULERS[:1]
    older = by.next(only, 0)
    by.failed(older, 0, for_long=True)
    by.holds()
    assert not by.next(only, 50).by_scheduler
    assert by.better(DIRECT[0], only, 50) == []
    assert by.better(DIRECT[0], only, 200) == [older]
    by.found_no_better(older, 200, for_long=True)
    assert by.better(DIRECT[0], only, 250) == []


def test_it_looks_ever_more_rarely() -> None:
    by = ways()
    assert 10 <= by.look_in() <= 30
    for _ in range(20):
        by.found_no_better(DIRECT[0], 0, for_long=False)
    assert by.look_in() == 300
    by.holds()
    assert by.look_in() <= 30
