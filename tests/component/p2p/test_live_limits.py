"""Limits of host, task and client: what they hold back, and that a change frees it at once."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.p2p.content import Wish
from cafs.p2p.download_pace import DownloadPace
from cafs.p2p.engine import spec_of
from cafs.p2p.live_limits import LiveLimits, TaskThrottles, Throttle
from cafs.p2p.live_quotas import keep_quotas
from cafs.p2p.task_store import open_task_store
from cafs.p2p.uploads import Uploads
from cafs.store.chunk_store import ChunkStore
from tests.component.store.chunks import raw_chunk
from tests.support.grid import Grid, GridHost, grid, until
from tests.support.logs import ExpectedLogs
from tests.support.proxying import Origin

MIB = 1 << 20
BODY = os.urandom(6 * MIB + 321)
HELD_BACK_S = 0.3
"""For something that a limit holds back for hours: the test waits so long to see that it does not come."""
A, B = TaskId("a" * 64), TaskId("b" * 64)


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    return autojump_clock


# The throttles, by an injected clock


async def test_a_change_frees_or_slows_who_waits_already(clock: trio.testing.MockClock) -> None:
    throttle, ended = Throttle(1), trio.Event()

    async def spend() -> None:
        await throttle.spend(10 * MIB)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spend)
        await trio.sleep(3600)
        assert not ended.is_set()
        throttle.set_rate(MIB)
        changed_at = trio.current_time()
        await ended.wait()
        assert trio.current_time() - changed_at == pytest.approx(10, rel=0.01)
        ended = trio.Event()
        nursery.start_soon(spend)
        await trio.sleep(1)
        throttle.set_rate(0)
        await ended.wait()
        assert trio.current_time() - changed_at < 12


async def test_each_task_has_a_rate_of_its_own(clock: trio.testing.MockClock) -> None:
    throttles = TaskThrottles(MIB)
    began = trio.current_time()
    ended: dict[TaskId, float] = {}

    async def spend(task: TaskId, mib: int) -> None:
        for _ in range(mib):
            await throttles.spend(task, MIB)
        ended[task] = trio.current_time() - began

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spend, A, 10)
        nursery.start_soon(spend, B, 5)
    assert ended == pytest.approx({A: 10, B: 5}, abs=0.2)
    for number in range(2000):  # those that are idle are forgotten, those in debt are not
        await throttles.spend(TaskId(f"{number:064x}"), 1)
        await trio.sleep(0.01)
    assert len(throttles._of) < 400
    await throttles.spend(A, MIB)
    at = trio.current_time()
    await throttles.spend(A, MIB)
    assert trio.current_time() - at == pytest.approx(1)


async def test_what_did_not_come_is_given_back(clock: trio.testing.MockClock) -> None:
    limits = LiveLimits(PeerLimits(download_bytes_per_s=MIB, task_download_bytes_per_s=MIB))
    pace = DownloadPace(limits, A)
    began = trio.current_time()
    for _ in range(100):
        with pytest.raises(ValueError, match="it broke"):
            async with pace.from_host(64 << 10):
                raise ValueError("it broke")
    assert trio.current_time() - began < 1  # of the 6 s that they would have taken
    assert limits.download.total_bytes == 0
    assert not pace.waits


# Who is served


async def test_so_many_hosts_are_served_and_so_many_requests_of_each() -> None:
    limits = LiveLimits(PeerLimits(concurrent_children=2, uploads_per_client=2, concurrent_uploads=100))
    uploads = Uploads(limits)
    with (
        uploads.admitted("10.0.0.1") as first,
        uploads.admitted("10.0.0.2") as second,
        uploads.admitted("10.0.0.2") as again,
    ):
        assert (first, second, again) == (True, True, True)
        with uploads.admitted("10.0.0.2") as third_request, uploads.admitted("10.0.0.3") as third_host:
            assert (third_request, third_host) == (False, False)
        limits.change(PeerLimits(concurrent_children=3))
        with uploads.admitted("10.0.0.3") as third_host, uploads.admitted("10.0.0.4") as fourth:
            assert (third_host, fourth) == (True, False)
        limits.change(PeerLimits(concurrent_children=1))
        with uploads.admitted("10.0.0.1") as known:
            assert known  # who is served is not cut off
    limits.change(PeerLimits(concurrent_uploads=0))
    with uploads.admitted("10.0.0.1") as anybody:
        assert not anybody
    assert uploads.active == 0


# What comes


async def pair(swarm: Grid, origin: Origin) -> tuple[GridHost, GridHost]:
    """A host that has all of it, and one that has nothing."""
    origin.page(
        "/f", BODY, etag='"1"', cache_control="max-age=3600"
    )  # nobody need ask it whether it is the same
    holder = await swarm.host()
    await holder.get(Wish(url=f"{origin.url}/f"))
    return holder, await swarm.host()


async def get_all(host: GridHost, wanted: Wish, got: trio.Event) -> None:
    assert await host.get(wanted) == BODY
    got.set()


@pytest.mark.parametrize(
    ("at_holder", "limit"),
    [
        (True, "upload_bytes_per_s"),
        (True, "task_upload_bytes_per_s"),
        (False, "download_bytes_per_s"),
        (False, "task_download_bytes_per_s"),
    ],
)
async def test_a_rate_between_hosts_holds_back_until_it_is_lifted(
    tmp_path: Path, origin: Origin, at_holder: bool, limit: str
) -> None:
    with trio.fail_after(60):
        async with grid(tmp_path) as swarm, trio.open_nursery() as nursery:
            holder, host = await pair(swarm, origin)
            limited, got = (holder if at_holder else host).limits, trio.Event()
            limited.change(replace(PeerLimits(), **{limit: 1}))
            asked = len(origin.asked)
            nursery.start_soon(get_all, host, Wish(url=f"{origin.url}/f"), got)
            await until(lambda: bool(host.engine.active) and host.means.flights.pieces > 0)
            with trio.move_on_after(HELD_BACK_S):
                await got.wait()
            assert not got.is_set()
            limited.change(PeerLimits())
            await got.wait()
            assert len(origin.asked) == asked, "what is held back is not fetched from elsewhere"


@pytest.mark.parametrize("limit", ["source_bytes_per_s", "task_source_bytes_per_s"])
async def test_a_rate_of_the_source_holds_back_until_it_is_lifted(
    tmp_path: Path, origin: Origin, limit: str
) -> None:
    with trio.fail_after(60):
        async with grid(tmp_path, scheduled=False) as swarm, trio.open_nursery() as nursery:
            host, got = await swarm.host(limits=replace(PeerLimits(), **{limit: 1})), trio.Event()
            nursery.start_soon(get_all, host, Wish(url=f"{origin.url}/f"), got)
            await until(lambda: bool(origin.asked))
            with trio.move_on_after(HELD_BACK_S):
                await got.wait()
            assert not got.is_set()
            host.limits.change(PeerLimits())
            await got.wait()


@pytest.mark.parametrize("from_host", [True, False])
async def test_a_client_may_want_it_slowly_while_nobody_wants_it_sooner(
    tmp_path: Path, origin: Origin, from_host: bool
) -> None:
    wish = Wish(url=f"{origin.url}/f")
    with trio.fail_after(60):
        async with grid(tmp_path, scheduled=from_host) as swarm, trio.open_nursery() as nursery:
            host = (await pair(swarm, origin))[1] if from_host else await swarm.host()
            slowly, at_once = trio.Event(), trio.Event()
            nursery.start_soon(get_all, host, replace(wish, bytes_per_s=1), slowly)
            await until(lambda: bool(host.engine.active))
            with trio.move_on_after(HELD_BACK_S):
                await slowly.wait()
            assert not slowly.is_set()
            assert host.figures.peer_bytes + host.figures.source_bytes <= MIB
            nursery.start_soon(get_all, host, wish, at_once)
            await at_once.wait()
            await slowly.wait()


@pytest.mark.parametrize("limit", ["concurrent_pieces", "task_concurrent_pieces"])
async def test_so_many_pieces_are_under_way(tmp_path: Path, origin: Origin, limit: str) -> None:
    """Counted where they are served: a rate of next to nothing keeps each request under way."""
    with trio.fail_after(60):
        async with grid(tmp_path) as swarm, trio.open_nursery() as nursery:
            holder, host = await pair(swarm, origin)
            holder.limits.change(PeerLimits(upload_bytes_per_s=1))
            host.limits.change(replace(PeerLimits(), **{limit: 2}))
            got = trio.Event()
            nursery.start_soon(get_all, host, Wish(url=f"{origin.url}/f"), got)
            await until(lambda: holder.uploads.active == 2)
            await trio.sleep(HELD_BACK_S)
            assert holder.uploads.active == 2
            host.limits.change(replace(PeerLimits(), **{limit: 4}))
            await until(lambda: holder.uploads.active == 4)
            await trio.sleep(HELD_BACK_S)
            assert holder.uploads.active == 4
            holder.limits.change(PeerLimits())
            await got.wait()


async def test_pieces_of_each_task_are_counted_apart(tmp_path: Path, origin: Origin) -> None:
    origin.page("/g", BODY, etag='"2"')
    with trio.fail_after(60):
        async with grid(tmp_path) as swarm, trio.open_nursery() as nursery:
            holder, host = await pair(swarm, origin)
            await holder.get(Wish(url=f"{origin.url}/g"))
            holder.limits.change(PeerLimits(upload_bytes_per_s=1))
            host.limits.change(PeerLimits(task_concurrent_pieces=2, concurrent_pieces=3))
            for path in ("/f", "/g"):
                nursery.start_soon(get_all, host, Wish(url=origin.url + path), trio.Event())
            await until(lambda: holder.uploads.active == 3)
            await trio.sleep(HELD_BACK_S)
            shares = [host.means.flights.of(spec_of(Wish(url=origin.url + p)).task_id) for p in ("/f", "/g")]
            assert sorted(shares) == [1, 2]
            nursery.cancel_scope.cancel()


# Quotas


async def test_lowered_quotas_evict_at_once(tmp_path: Path) -> None:
    chunks = [raw_chunk(seed, MIB) for seed in range(40)]
    limits = LiveLimits(PeerLimits(store_quota_bytes=128 * MIB, task_quota_bytes=128 * MIB))
    with ChunkStore.open(tmp_path / "store", 128 * MIB) as store, trio.fail_after(60):
        await trio.to_thread.run_sync(store.put, chunks)
        async with open_task_store(tmp_path / "tasks", 128 * MIB) as tasks, trio.open_nursery() as nursery:
            nursery.start_soon(keep_quotas, limits, tasks, store)
            await trio.testing.wait_all_tasks_blocked()
            used = store.stats().used_bytes
            limits.change(PeerLimits(store_quota_bytes=16 * MIB, task_quota_bytes=32 * MIB))
            await until(lambda: tasks.quota_bytes == 32 * MIB)
            await until(lambda: store.stats().used_bytes < 16 * MIB)
            await until(lambda: store.stats().file_bytes <= 17 * MIB)
            assert used > 40 * MIB
            limits.change(PeerLimits(store_quota_bytes=256 * MIB, task_quota_bytes=32 * MIB))
            await until(lambda: store.stats().quota_bytes == 256 * MIB)
            await trio.to_thread.run_sync(store.put, chunks)
            assert all(store.has([chunk.digest for chunk in chunks]))
            nursery.cancel_scope.cancel()


async def test_what_is_in_use_goes_when_it_is_not_any_more(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    origin.page("/g", BODY, etag='"2"')
    with trio.fail_after(60):
        async with grid(tmp_path, scheduled=False) as swarm:
            host = await swarm.host()
            used, idle = Wish(url=f"{origin.url}/f"), Wish(url=f"{origin.url}/g")
            await host.get(idle)
            async with await host.engine.open(used) as content:
                got = [piece async for piece in content]
                host.store.set_quota(MIB)
                await until(lambda: host.store.find(spec_of(idle).task_id) is None)
                assert host.store.find(spec_of(used).task_id) is not None
                assert b"".join(got) == BODY
            await until(lambda: not host.store.tasks())
            assert host.store.used_bytes == 0
