"""Hosts that fill themselves at once, as preheats have them do: many windows of a blob, nobody waits."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.p2p import chunk_exchange
from tests.support.chunk_swarm import Host, swarm, wish_for
from tests.support.fetching import MemoryLayer, ScriptedSource


@pytest.fixture(scope="module")
def layer() -> MemoryLayer:
    """Each chunk in a window of its own."""
    return MemoryLayer([128 << 10] * 90)


@pytest.fixture(autouse=True)
def _many_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_exchange, "WINDOW_BYTES", 64 << 10)
    monkeypatch.setattr(chunk_exchange, "PATIENCE_S", (20.0,) * 4)


async def fill(host: Host, layer: MemoryLayer) -> None:
    frames = await host.exchange.bring(wish_for(layer, urgency=3))
    assert [bytes(frame) if frame is not None else None for frame in frames] == layer.frames


async def test_owners_do_not_wait_for_those_who_wait_for_them(tmp_path: Path, layer: MemoryLayer) -> None:
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 3) as (hosts, table):
        for host in hosts:
            table.members[host.id] = host.member()
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(fill, host, layer)
        assert [host.exchange.figures.failed for host in hosts] == [0, 0, 0]
        assert sum(length for _, length in source.requests) == len(layer.blob)


async def test_who_began_alone_shares_what_is_left(tmp_path: Path, layer: MemoryLayer) -> None:
    go = trio.Event()

    async def wait(_number: int, right: bytes) -> bytes:
        await go.wait()
        return right

    source = ScriptedSource(layer.blob, wait)
    async with swarm(tmp_path, source, 2) as ([first, second], table), trio.open_nursery() as nursery:
        nursery.start_soon(fill, first, layer)
        with trio.fail_after(30):
            while not source.requests:  # noqa: ASYNC110 - it happens in another task, without an event
                await trio.sleep(0.01)
        table.members[second.id] = second.member()
        nursery.start_soon(fill, second, layer)
        go.set()
    read = [host.exchange.figures.source_bytes for host in (first, second)]
    assert sum(read) == len(layer.blob)
    assert read[1] > len(layer.blob) // 4


async def test_hosts_that_read_together_have_fewer_requests_under_way_each(
    tmp_path: Path, layer: MemoryLayer
) -> None:
    go, waiting = trio.Event(), 0

    async def wait(_number: int, right: bytes) -> bytes:
        nonlocal waiting
        waiting += 1
        await go.wait()
        return right

    source = ScriptedSource(layer.blob, wait)
    async with swarm(tmp_path, source, 4) as (hosts, table), trio.open_nursery() as nursery:
        for host in hosts:
            table.members[host.id] = host.member()
        for host in hosts:
            nursery.start_soon(fill, host, layer)
        with trio.fail_after(30):
            while waiting < 2 * len(hosts):  # noqa: ASYNC110 - it happens in another task, without an event
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert waiting == 2 * len(hosts)
        go.set()


async def test_who_says_early_that_he_will_want_it_is_known_by_then(
    tmp_path: Path, layer: MemoryLayer
) -> None:
    async with swarm(tmp_path, ScriptedSource(layer.blob), 2) as ([first, second], table):
        for host in (first, second):
            host.exchange.take_part(wish_for(layer, urgency=3))
        with trio.fail_after(30):
            while len(table.members) < 2:  # noqa: ASYNC110 - it happens in another task, without an event
                await trio.sleep(0.01)
        await fill(first, layer)
        assert 0 < second.exchange.figures.source_bytes < len(layer.blob)


async def test_who_may_not_exchange_a_blob_takes_no_part_in_it(tmp_path: Path, layer: MemoryLayer) -> None:
    async with swarm(tmp_path, ScriptedSource(layer.blob), 1) as ([host], table):
        host.account.blocked = True
        host.exchange.take_part(wish_for(layer, urgency=3))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not table.members
