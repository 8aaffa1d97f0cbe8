"""Chunks in a swarm of hosts: one copy from the registry, and what slow, dead and lying hosts cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.chunk import ChunkRef
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import HAVE_HEADER, encode_have, parse_chunk_wish
from cafs.core.swarm.ownership import in_order
from cafs.errors import AuthError, RemoteError
from cafs.http11.messages import BYTES_TYPE, Answer, Reply, Request
from cafs.p2p import chunk_exchange, giving_way, shared_blobs
from cafs.p2p.membership import ChunkSwarm
from tests.support.chunk_swarm import TASK, Host, SwarmTable, swarm, wish_for
from tests.support.fetching import MemoryLayer, ScriptedSource
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S

WINDOW_BYTES = 512 << 10


@pytest.fixture(scope="module")
def layer() -> MemoryLayer:
    """60 chunks of 128 KiB in 8 windows."""
    return MemoryLayer([128 << 10] * 60)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine makes nobody an absent owner; who is tested for patience has less of it."""
    monkeypatch.setattr(chunk_exchange, "WINDOW_BYTES", WINDOW_BYTES)
    monkeypatch.setattr(chunk_exchange, "PATIENCE_S", (20.0,) * 4)


def owned_by(layer: MemoryLayer, hosts: Sequence[Host], owner: Host) -> list[ChunkRef]:
    ids = [host.id for host in hosts]
    return [ref for ref in layer.table.refs if in_order(TASK, ref.offset // WINDOW_BYTES, ids)[0] == owner.id]


async def bring(host: Host, layer: MemoryLayer, refs: Sequence[ChunkRef] | None = None) -> list[bytes | None]:
    frames = await host.exchange.bring(wish_for(layer, refs))
    return [None if frame is None else bytes(frame) for frame in frames]


async def until(condition: object) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - of a store in other threads there is no event
            await trio.sleep(0.01)


def waiting_source(layer: MemoryLayer, go: trio.Event) -> ScriptedSource:
    """Answers nobody before ``go``."""

    async def wait(_number: int, right: bytes) -> bytes:
        await go.wait()
        return right

    return ScriptedSource(layer.blob, wait)


async def test_hosts_that_begin_at_once_bring_one_copy(tmp_path: Path, layer: MemoryLayer) -> None:
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 4) as (hosts, table):
        for host in hosts:
            table.members[host.id] = host.member()
        brought: list[list[bytes | None]] = []

        async def one(host: Host) -> None:
            brought.append(await bring(host, layer))

        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(one, host)
        assert brought == [layer.frames] * 4
        assert sum(length for _, length in source.requests) == len(layer.blob)
        assert len(source.requests) <= len(layer.blob) // WINDOW_BYTES + 1
        assert all(host.exchange.figures.source_bytes < len(layer.blob) for host in hosts)
        for host in hosts:
            await until(lambda host=host: all(host.stored(layer)))


async def test_who_comes_later_asks_nobody_but_hosts(tmp_path: Path, layer: MemoryLayer) -> None:
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 4) as (hosts, _):
        for host in hosts:  # each joins with its first request, and becomes an owner of what others have
            assert await bring(host, layer) == layer.frames
        assert sum(length for _, length in source.requests) == len(layer.blob)


async def test_one_chunk_wanted_by_many_readers_is_asked_for_once(tmp_path: Path, layer: MemoryLayer) -> None:
    go = trio.Event()
    source = waiting_source(layer, go)
    refs = layer.table.refs[:1]
    async with swarm(tmp_path, source, 2) as (hosts, _), trio.open_nursery() as nursery:
        for host in (*hosts, *hosts):
            nursery.start_soon(bring, host, layer, refs)
        await until(lambda: source.requests)
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        await until(lambda: all(host.stored(layer)[0] for host in hosts))
        assert len(source.requests) == 1


async def test_what_came_while_it_was_looked_for_is_not_read_again(
    tmp_path: Path, layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the store and the wish for the registry lies the question who the members are."""
    monkeypatch.setattr(shared_blobs, "LATER_MEMBERS_S", 20.0)
    answer, tell, asked = trio.Event(), trio.Event(), trio.Event()

    async def wait(_number: int, right: bytes) -> bytes:
        await answer.wait()
        return right

    source = ScriptedSource(layer.blob, wait)
    refs = layer.table.refs[:1]
    async with swarm(tmp_path, source, 1) as ([host], _), trio.open_nursery() as nursery:
        nursery.start_soon(bring, host, layer, refs)
        await until(lambda: source.requests)
        known = host.membership.swarm

        async def slow(blob: BlobRef, repository: str) -> ChunkSwarm:
            asked.set()
            await tell.wait()
            return await known(blob, repository)

        monkeypatch.setattr(host.membership, "swarm", slow)
        nursery.start_soon(host.serve, wish_for(layer, refs))
        await asked.wait()
        answer.set()
        await until(lambda: host.stored(layer)[0])
        tell.set()
    assert len(source.requests) == 1


@pytest.mark.parametrize("asked", [0, 1])
@pytest.mark.parametrize("holds", [0, 1, 5])
async def test_of_hosts_that_began_at_once_anybody_may_have_been_an_owner(
    tmp_path: Path, layer: MemoryLayer, asked: int, holds: int
) -> None:
    """Also whoever is the owner by what the asked one knows, and was not for who asks it."""
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 6) as (hosts, table):
        ranked = await known_to_all(hosts, table, layer)
        before = len(source.requests)
        await trio.to_thread.run_sync(ranked[holds].store.put, [layer.chunk(0)])
        [frame] = await ranked[asked].exchange.serve(wish_for(layer, layer.table.refs[:1]))
        assert bytes(frame) == layer.frames[0]
        assert len(source.requests) == before


async def test_hosts_that_have_known_each_other_for_a_while_ask_two(
    tmp_path: Path, layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_blobs, "YOUNG_S", 0.0)
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 6) as (hosts, table):
        ranked = await known_to_all(hosts, table, layer)
        assert await bring(ranked[0], layer, layer.table.refs[:1]) == layer.frames[:1]
        assert [len(host.asked) for host in ranked] == [0, 1, 1, 0, 0, 0]


async def known_to_all(hosts: Sequence[Host], table: SwarmTable, layer: MemoryLayer) -> list[Host]:
    """Everybody has joined, by a chunk of the last window; the owners of the first, in their order."""
    for host in hosts:
        table.members[host.id] = host.member()
    for host in hosts:
        await bring(host, layer, layer.table.refs[-1:])
    for host in hosts:
        host.asked.clear()
    place = {host.id: host for host in hosts}
    return [place[name] for name in in_order(TASK, 0, place)]


async def test_a_dead_owner_costs_nothing_but_a_moment(tmp_path: Path, layer: MemoryLayer) -> None:
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 3) as (hosts, table):
        for host in hosts:
            table.members[host.id] = host.member()
        assert await bring(hosts[1], layer, layer.table.refs[:1]) == layer.frames[:1]
        hosts[2].scope.cancel()
        assert await bring(hosts[0], layer) == layer.frames
        assert hosts[0].exchange.figures.failed
        assert sum(length for _, length in source.requests) == len(layer.blob)


async def test_a_silent_owner_is_left_after_patience(
    tmp_path: Path, layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_exchange, "PATIENCE_S", (0.1,) * 4)

    async def silent(_request: Request, _reply: Reply) -> None:
        await trio.sleep_forever()

    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 2, {1: silent}) as (hosts, table):
        table.members[hosts[1].id] = hosts[1].member()
        assert await bring(hosts[0], layer) == layer.frames


async def test_a_lying_host_is_found_out_and_told_of(
    tmp_path: Path, layer: MemoryLayer, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("sent wrong chunks")
    asked = 0

    async def lie(request: Request, reply: Reply) -> None:
        nonlocal asked
        asked += 1
        refs = parse_chunk_wish(request.body).refs
        body = b"".join(bytes(ref.frame_bytes) for ref in refs)
        await reply.send(Answer(200, body, BYTES_TYPE, ((HAVE_HEADER, encode_have(refs)),)))

    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 2, {1: lie}) as (hosts, table):
        table.members[hosts[1].id] = hosts[1].member()
        assert await bring(hosts[0], layer) == layer.frames
        assert set(table.wrong) == {hosts[1].id}
        assert hosts[0].exchange.figures.wrong
        before = asked
        assert await bring(hosts[0], layer) == layer.frames
        assert asked == before


@pytest.mark.parametrize("have", ["", "%%", "////////////////"])
async def test_nonsense_is_no_answer(tmp_path: Path, layer: MemoryLayer, have: str) -> None:
    async def babble(_request: Request, reply: Reply) -> None:
        await reply.send(Answer(200, b"x", BYTES_TYPE, ((HAVE_HEADER, have),)))

    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 2, {1: babble}) as (hosts, table):
        table.members[hosts[1].id] = hosts[1].member()
        assert await bring(hosts[0], layer) == layer.frames


async def test_a_registry_that_sends_wrong_bytes(
    tmp_path: Path, layer: MemoryLayer, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("sent wrong bytes")

    async def wrong(_number: int, right: bytes) -> bytes:
        return right[:1000] + bytes(1000) + right[2000:]

    async with swarm(tmp_path, ScriptedSource(layer.blob, wrong), 1) as (hosts, _):
        frames = await bring(hosts[0], layer, layer.table.refs[:5])
        assert frames[0] is None
        assert frames[1:] == layer.frames[1:5]
        await until(lambda: hosts[0].stored(layer)[1])
        assert not hosts[0].stored(layer)[0]


@pytest.mark.parametrize("error", [RemoteError("away"), AuthError("no")])
async def test_a_registry_that_refuses_sends_the_caller_there(
    tmp_path: Path, layer: MemoryLayer, error: Exception
) -> None:
    async def fail(_number: int, _right: bytes) -> bytes:
        raise error

    source = ScriptedSource(layer.blob, fail)
    async with swarm(tmp_path, source, 1) as (hosts, _):
        for _ in range(3):
            assert await bring(hosts[0], layer, layer.table.refs[:2]) == [None, None]
        assert len(source.requests) == (1 if isinstance(error, AuthError) else 3)


async def test_nobody_makes_us_fetch_what_we_do_not_mount(tmp_path: Path, layer: MemoryLayer) -> None:
    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 1) as (hosts, _):
        wish = wish_for(layer, layer.table.refs[:2])
        assert await hosts[0].exchange.serve(wish) == [None, None]
        assert source.requests == []
        await bring(hosts[0], layer, layer.table.refs[:1])
        assert [frame is not None for frame in await hosts[0].exchange.serve(wish)] == [True, True]
        assert len(source.requests) == 2


async def test_demand_goes_before_what_nobody_waits_for(tmp_path: Path, layer: MemoryLayer) -> None:
    go = trio.Event()
    source = waiting_source(layer, go)
    windows = [[ref for ref in layer.table.refs if ref.offset // WINDOW_BYTES == n] for n in range(8)]
    async with swarm(tmp_path, source, 1) as (hosts, _):
        exchange = hosts[0].exchange
        async with trio.open_nursery() as nursery:
            for number in range(8):  # 6 of 8 places are for them
                nursery.start_soon(exchange.bring, wish_for(layer, windows[number][2:], 3))
            await until(lambda: len(source.requests) == 6)
            nursery.start_soon(exchange.bring, wish_for(layer, windows[7][:1], 0))
            await until(lambda: len(source.requests) == 7)
            assert source.requests[-1][0] == windows[7][0].offset
            go.set()


async def test_what_nobody_waits_for_is_not_taken_while_a_reader_waits(
    tmp_path: Path, layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giving_way, "PAUSE_S", 20.0)
    frames = dict(zip((ref.digest for ref in layer.table.refs), layer.frames, strict=True))
    asked: list[int] = []
    go = trio.Event()

    async def answer(request: Request, reply: Reply) -> None:
        wish = parse_chunk_wish(request.body)
        asked.append(wish.urgency)
        if not wish.urgency:
            await go.wait()
        body = b"".join(frames[ref.digest] for ref in wish.refs)
        await reply.send(Answer(200, body, BYTES_TYPE, ((HAVE_HEADER, encode_have(wish.refs)),)))

    source = ScriptedSource(layer.blob)
    async with swarm(tmp_path, source, 2, {1: answer}) as (hosts, table), trio.open_nursery() as nursery:
        table.members[hosts[0].id] = hosts[0].member()
        table.members[hosts[1].id] = hosts[1].member()
        [wanted, *rest] = owned_by(layer, hosts, hosts[1])
        nursery.start_soon(bring, hosts[0], layer, [wanted])
        await until(lambda: asked == [0])
        nursery.start_soon(hosts[0].exchange.bring, wish_for(layer, rest, 3))
        await until(lambda: 3 in asked)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not hosts[0].exchange.figures.from_peers
        go.set()
    assert hosts[0].exchange.figures.from_peers == 1 + len(rest)


async def test_a_reader_that_leaves_ends_nobody_elses_fetch(tmp_path: Path, layer: MemoryLayer) -> None:
    go = trio.Event()
    source = waiting_source(layer, go)
    refs = layer.table.refs[:1]
    async with swarm(tmp_path, source, 1) as (hosts, _), trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            await bring(hosts[0], layer, refs)
        nursery.start_soon(bring, hosts[0], layer, refs)
        await trio.testing.wait_all_tasks_blocked(0.05)
        go.set()
        await until(lambda: hosts[0].stored(layer)[0])
        assert len(source.requests) == 1
