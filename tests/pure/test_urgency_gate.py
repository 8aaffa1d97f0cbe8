"""Who is let through a gate, and how many."""

from __future__ import annotations

import trio
import trio.testing

from cafs.p2p.urgency_gate import UrgencyGate, Urgent


async def inside(gate: UrgencyGate, works: list[Urgent], sharers: int = 1) -> int:
    """How many of these are let in at once."""
    count = 0

    async def stay(work: Urgent) -> None:
        nonlocal count
        async with gate.enter(work, sharers):
            count += 1
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(stay, work)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return count


async def test_what_is_less_urgent_leaves_a_quarter_free() -> None:
    for urgency, most in ((0, 8), (1, 6), (2, 6), (3, 6)):
        assert await inside(UrgencyGate(8), [Urgent(urgency) for _ in range(9)]) == most


async def test_what_nobody_waits_for_takes_one_hosts_part() -> None:
    for sharers, most in ((1, 12), (2, 6), (3, 4), (100, 2)):
        assert await inside(UrgencyGate(16), [Urgent(3) for _ in range(20)], sharers) == most
        assert await inside(UrgencyGate(16), [Urgent(1) for _ in range(20)], sharers) == 12
    assert await inside(UrgencyGate(1), [Urgent(3), Urgent(3)], 5) == 1


async def test_who_is_waited_for_meanwhile_goes_first() -> None:
    gate, went, leave = UrgencyGate(1), list[int](), trio.Event()
    works = [Urgent(3) for _ in range(3)]

    async def go(number: int) -> None:
        async with gate.enter(works[number]):
            went.append(number)
            await leave.wait()

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(go, number)
            await trio.testing.wait_all_tasks_blocked()
        works[2].hasten(0)
        leave.set()
    assert went == [0, 2, 1]
