"""What nobody waits for comes body by body next to readers, not while one waits, and nothing waits long."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from cafs.core.swarm.link_share import LOOK_BYTES, PASSED_BYTES, SHARE
from cafs.p2p.giving_way import (
    BODIES,
    PAUSE_S,
    QUEUE_BYTES,
    QUIET_S,
    TURN_S,
    WIDE_BYTES,
    GivingWay,
)


async def take(fill: GivingWay, for_s: float, taken: list[tuple[float, float]]) -> None:
    async with fill.body():
        began = trio.current_time()
        await trio.sleep(for_s)
        taken.append((began, trio.current_time()))


async def test_next_to_readers_bodies_come_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fill, taken = GivingWay(), list[tuple[float, float]]()
    fill.note_read(1)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(take, fill, TURN_S / 10, taken)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(taken))


async def test_where_nobody_reads_some_come_at_once(autojump_clock: trio.testing.MockClock) -> None:
    fill, taken = GivingWay(), list[tuple[float, float]]()
    first = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(2 * BODIES):
            nursery.start_soon(take, fill, TURN_S / 10, taken)
    began = [when - first for when, _ in taken]
    assert began == pytest.approx([0.0] * BODIES + [TURN_S / 10] * BODIES)


async def test_one_that_hangs_does_not_keep_the_others(autojump_clock: trio.testing.MockClock) -> None:
    fill, taken = GivingWay(), list[tuple[float, float]]()
    fill.note_read(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, fill, 100.0, taken)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        async with fill.body():
            assert trio.current_time() == pytest.approx(began + TURN_S)
        nursery.cancel_scope.cancel()
    async with fill.body():  # the turn of the one that was cancelled is free again
        assert trio.current_time() == pytest.approx(began + TURN_S)


async def test_a_part_waits_for_the_last_reader(autojump_clock: trio.testing.MockClock) -> None:
    fill = GivingWay()
    began = trio.current_time()

    async def read(for_s: float) -> None:
        with fill.reader():
            await trio.sleep(for_s)

    await fill.part(0)
    assert trio.current_time() == began
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, PAUSE_S / 4)
        nursery.start_soon(read, PAUSE_S / 2)
        await trio.testing.wait_all_tasks_blocked()
        await fill.part(0)
        assert trio.current_time() == pytest.approx(began + PAUSE_S / 2)


async def test_a_part_waits_no_longer_than_a_moment(autojump_clock: trio.testing.MockClock) -> None:
    fill = GivingWay()
    began = trio.current_time()
    with fill.reader():
        await fill.part(0)
    assert trio.current_time() == pytest.approx(began + PAUSE_S)


async def test_after_a_read_parts_are_taken_below_the_links_rate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fill, part, part_s = GivingWay(), 32 << 10, 0.001

    async def take_for(count: int) -> float:
        began = trio.current_time()
        for _ in range(count):
            await trio.sleep(part_s)
            await fill.part(part)
        return trio.current_time() - began

    await fill.part(0)
    assert await take_for(1 + (PASSED_BYTES + LOOK_BYTES) // part) == pytest.approx(25 * part_s)
    fill.note_read(part)
    assert await take_for(500) == pytest.approx(500 * part_s / SHARE, rel=0.03)


async def test_windows_are_wide_where_nobody_has_read_for_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    fill = GivingWay()
    assert fill.queue_bytes() == WIDE_BYTES
    with fill.reader():
        assert fill.queue_bytes() == QUEUE_BYTES
    fill.note_read(1)
    await trio.sleep(QUIET_S / 2)
    assert fill.queue_bytes() == QUEUE_BYTES
    await trio.sleep(QUIET_S)
    assert fill.queue_bytes() == WIDE_BYTES
