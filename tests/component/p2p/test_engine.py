"""Swarms in one process against a scripted origin: who gets what from whom, and what goes wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cafs.core.scheduling.decisions import GoToSource
from cafs.core.scheduling.events import Event, PiecesFinished
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.swarm.self_help import LONG_STALL_S
from cafs.errors import CafsError, NotFoundError, RemoteError, StateError
from cafs.p2p import download, source_share, task_store
from cafs.p2p.content import OriginError
from cafs.p2p.engine import spec_of
from tests.support.grid import GridHost, grid, until
from tests.support.grid_wishes import BODY, MIB, all_get, sent, wish
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S
from tests.support.proxying import Asked, Origin, Told

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine hosts hear of each other late: they are to wait for that, and not to ask twice."""
    monkeypatch.setattr(download, "OTHERS_S", PATIENCE_S)


async def test_a_host_on_its_own(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host()
        async with await host.engine.open(wish(origin)) as content:
            assert content.content_bytes == len(BODY)
            assert ("content-type", "text/x-test") in content.headers
            assert b"".join([piece async for piece in content]) == BODY
        assert sent(origin) == len(BODY)
        await until(lambda: host.figures.succeeded == 1)  # its reader may see the end before it does


async def test_eight_hosts_and_a_seed_take_one_copy(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path) as swarm:
        seed = await swarm.host(seed=True)
        hosts = [await swarm.host() for _ in range(8)]
        await all_get(hosts, wish(origin))
        assert sent(origin) <= 1.05 * len(BODY)
        assert seed.figures.source_bytes == len(BODY)
        assert sum(host.figures.peer_bytes for host in hosts) == 8 * len(BODY)
        assert sum(host.figures.wrong_pieces for host in hosts) == 0


async def test_a_seed_that_is_asked_need_not_be_sent(tmp_path: Path, origin: Origin) -> None:
    origin.page("/tiny", b"x")
    async with grid(tmp_path) as swarm:
        assert swarm.scheduler is not None
        seed, host = await swarm.host(seed=True), await swarm.host()
        await until(lambda: len(seed.schedulers.connected) == len(host.schedulers.connected) == 1)
        swarm.scheduler.lost = GoToSource
        assert await host.get(wish(origin, "/tiny")) == b"x"
        assert seed.figures.source_bytes == host.figures.peer_bytes == len(origin.asked) == 1


async def test_ranges_bring_no_more_than_their_pieces(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path) as swarm:
        host = await swarm.host()
        got = await host.get(wish(origin, first_byte=3 * MIB + 5, last_byte=4 * MIB + 7))
        assert got == BODY[3 * MIB + 5 : 4 * MIB + 8]
        assert sent(origin) == 2 * MIB
        assert await host.get(wish(origin, first_byte=len(BODY) - 9)) == BODY[-9:]
        with pytest.raises(OriginError) as beyond:
            await host.get(wish(origin, first_byte=len(BODY)))
        assert beyond.value.status == 416
        assert await host.get(wish(origin)) == BODY
        assert swarm.scheduler is not None
        counts = swarm.scheduler.core.state.counts  # readers had all they wanted, and did not just leave
        await until(lambda: counts["peers_succeeded"] == 3)


async def test_many_readers_of_one_host_are_one_download(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path) as swarm:
        host = await swarm.host()
        await all_get([host] * 8, wish(origin))
        assert sent(origin) == len(BODY)
        assert host.figures.begun == 1


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("length", [True, False])
async def test_an_origin_without_ranges(tmp_path: Path, origin: Origin, length: bool) -> None:
    def answer(asked: Asked) -> Told:
        return Told(200, {} if length else {"transfer-encoding": "chunked"}, BODY)

    origin.pages["/stream"] = answer
    async with grid(tmp_path) as swarm:
        seed = await swarm.host(seed=True)
        hosts = [await swarm.host() for _ in range(3)]
        await all_get(hosts, wish(origin, "/stream"))
        assert [asked.target for asked in origin.asked] == ["/stream"]
        assert seed.figures.source_bytes == len(BODY)


async def test_an_empty_content(tmp_path: Path, origin: Origin) -> None:
    origin.page("/empty", b"")
    async with grid(tmp_path) as swarm:
        assert await (await swarm.host()).get(wish(origin, "/empty")) == b""


async def test_an_origin_that_breaks_off_is_asked_for_the_rest(tmp_path: Path, origin: Origin) -> None:
    good, broken = origin.pages["/f"], [3]

    def answer(asked: Asked) -> Told:
        told = good(asked)
        broken[0] -= 1
        if broken[0] == 0:
            return Told(told.status, {**told.headers, "content-length": str(len(told.body))},
                        told.body[: len(told.body) // 2], whole=False)  # fmt: skip
        return told

    origin.pages["/f"] = answer
    async with grid(tmp_path, scheduled=False) as swarm:
        assert await (await swarm.host()).get(wish(origin)) == BODY


@pytest.mark.parametrize("scheduled", [True, False])
async def test_a_refusal_comes_whole(tmp_path: Path, origin: Origin, scheduled: bool) -> None:
    origin.page("/no", b"you may not", 403, x_reason="because")
    async with grid(tmp_path, scheduled=scheduled) as swarm:
        host = await swarm.host()
        with pytest.raises(OriginError) as refused:
            await host.get(wish(origin, "/no"))
        assert refused.value.status == 403
        assert refused.value.body == b"you may not"
        assert ("x-reason", "because") in refused.value.headers


async def test_hosts_that_were_all_refused_do_not_wait_for_each_other(tmp_path: Path, origin: Origin) -> None:
    origin.page("/no", b"you may not", 404)
    async with grid(tmp_path) as swarm, trio.open_nursery() as nursery:
        statuses: list[int] = []

        async def refused(host: GridHost) -> None:
            with pytest.raises(OriginError) as error:
                await host.get(wish(origin, "/no"))
            statuses.append(error.value.status)

        for host in [await swarm.host() for _ in range(4)]:
            nursery.start_soon(refused, host)
        with trio.fail_after(LONG_STALL_S / 4):
            await until(lambda: len(statuses) == 4)
        assert statuses == [404] * 4


async def test_who_was_at_the_source_itself_says_how_it_failed(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    """And not that others, who were sent there first, got nothing."""
    expected_logs.allow("cannot be seeded")
    origin.page("/circle", b"", status=302, location="/circle")
    async with grid(tmp_path) as swarm:
        await swarm.host(seed=True)
        host = await swarm.host()
        with pytest.raises(RemoteError, match="circle"):
            await host.get(wish(origin, "/circle"))


async def test_a_liar_is_found_out_and_asked_no_more(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("has rotted")
    async with grid(tmp_path) as swarm:
        liar, honest = await swarm.host(), await swarm.host()
        await all_get([liar, honest], wish(origin))
        task = liar.store.find(spec_of(wish(origin)).task_id)
        assert task is not None
        # It verifies what it reads, so it lies about that, too.
        false = os.urandom(MIB)

        async def lie(number: int) -> bytes:
            await trio.lowlevel.checkpoint()
            return false[: len(BODY) - number * MIB]

        task.read_piece = lie  # type: ignore[method-assign]  # from now on
        newcomers = [await swarm.host() for _ in range(3)]
        await all_get(newcomers, wish(origin))
        assert sum(host.figures.wrong_pieces for host in newcomers) >= 1


@pytest.mark.usefixtures("patient")
async def test_who_joins_those_at_the_source_reads_nothing_that_they_read(
    tmp_path: Path, origin: Origin
) -> None:
    async with grid(tmp_path) as swarm:
        first = await swarm.host(limits=PeerLimits(source_bytes_per_s=2 * MIB))
        others = [await swarm.host() for _ in range(2)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_get, [first], wish(origin))
            await until(lambda: first.figures.source_bytes > 0)
            nursery.start_soon(all_get, others, wish(origin))
        assert sent(origin) <= len(BODY) + MIB


async def test_a_scheduler_that_dies_and_comes_back_empty(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    expected_logs.allow("the scheduler (is dead|died)")
    async with grid(tmp_path) as swarm:
        assert swarm.scheduler is not None
        slow = PeerLimits(download_bytes_per_s=4 * MIB)
        seed = await swarm.host(seed=True)
        hosts = [await swarm.host(limits=slow) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_get, hosts, wish(origin))
            await until(lambda: min(host.figures.peer_bytes for host in hosts) >= MIB)
            swarm.scheduler.die()
            await until(lambda: min(host.figures.peer_bytes for host in hosts) >= 3 * MIB)
            swarm.scheduler.rise()
        assert sent(origin) <= len(BODY) + MIB
        assert seed.figures.source_bytes == len(BODY)
        await until(lambda: all(host.schedulers.connected for host in hosts))
        late = await swarm.host()
        before = sent(origin)
        await all_get([late], wish(origin))
        assert sent(origin) == before


async def test_a_scheduler_that_comes_back_before_it_is_missed(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    """Also in the first moments of a host, when it waits for schedulers: what was registered is so again."""
    expected_logs.allow("the scheduler (is dead|died)")
    async with grid(tmp_path) as swarm:
        assert swarm.scheduler is not None
        seed = await swarm.host(seed=True, limits=PeerLimits(source_bytes_per_s=2 * MIB))
        hosts = [await swarm.host() for _ in range(2)]
        with trio.fail_after(LONG_STALL_S / 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(all_get, hosts, wish(origin))
                await until(lambda: min(host.figures.peer_bytes for host in hosts) > 0)
                swarm.scheduler.die()
                swarm.scheduler.rise()
        await until(lambda: seed.figures.succeeded == 1)
        assert sent(origin) <= len(BODY) + MIB
        task = swarm.scheduler.core.state.tasks[spec_of(wish(origin)).task_id]
        await until(lambda: task.complete == 3)


async def test_a_piece_that_nobody_can_prove(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler never heard of what a host read at the source: it is read there once more."""
    monkeypatch.setattr("cafs.p2p.piece_fetch.PROOF_S", 0.5)
    async with grid(tmp_path) as swarm:
        scheduler = swarm.scheduler
        assert scheduler is not None
        seed = await swarm.host(seed=True)
        hear = scheduler.hear

        def hear_badly(event: Event) -> None:
            if isinstance(event, PiecesFinished) and event.host_id == seed.id:
                event = replace(event, pieces=tuple(piece for piece in event.pieces if piece.number != 2))
            hear(event)

        scheduler.hear = hear_badly  # type: ignore[method-assign]  # from now on
        hosts = [await swarm.host() for _ in range(2)]
        with trio.fail_after(LONG_STALL_S / 2):
            await all_get(hosts, wish(origin))
        assert sent(origin) <= len(BODY) + 2 * MIB


async def test_hosts_that_die_under_way(tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs) -> None:
    async with grid(tmp_path) as swarm:
        slow = PeerLimits(download_bytes_per_s=4 * MIB)
        seed = await swarm.host(seed=True, limits=PeerLimits(source_bytes_per_s=3 * MIB))
        doomed = [await swarm.host(limits=slow) for _ in range(3)]
        hosts = [await swarm.host(limits=slow) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_get, hosts, wish(origin))
            for host in doomed:
                host.nursery.start_soon(host.get, wish(origin))
            await until(lambda: min(host.figures.peer_bytes for host in doomed) >= MIB)
            for host in (seed, *doomed):
                host.die()
        # Asked for, not read to the end: the seed died, too, and who follows it begins anew.
        assert sent(origin) <= 3 * len(BODY)


async def test_a_deleted_task_fails_its_readers(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host(limits=PeerLimits(source_bytes_per_s=4 * MIB))
        task = spec_of(wish(origin)).task_id

        async def read_and_delete() -> None:
            async with await host.engine.open(wish(origin)) as content:
                async for _ in content:
                    await host.store.delete(task)

        with pytest.raises(CafsError, match="deleted"):
            await read_and_delete()


async def test_nobody_reads_any_more(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path) as swarm:
        host = await swarm.host(limits=PeerLimits(source_bytes_per_s=4 * MIB))
        async with await host.engine.open(wish(origin)) as content:
            await anext(aiter(content))
        await until(lambda: not host.engine.active)
        assert sent(origin) < len(BODY)
        host.limits.change(PeerLimits())
        assert await host.get(wish(origin)) == BODY


@pytest.mark.parametrize("scheduled", [True, False])
async def test_priority_0_is_refused_and_1_is_for_the_swarm(
    tmp_path: Path, origin: Origin, scheduled: bool
) -> None:
    async with grid(tmp_path, scheduled=scheduled) as swarm:
        host, other = await swarm.host(), await swarm.host()
        with pytest.raises(StateError, match="blocked"):
            await host.get(wish(origin, priority=0))
        with pytest.raises(NotFoundError, match="none may fetch it"):
            await host.get(wish(origin, priority=1))
        assert origin.asked == []
        if scheduled:
            await all_get([other], wish(origin))
            before = sent(origin)
            await all_get([host], wish(origin, priority=1))
            assert sent(origin) == before


async def test_priority_2_spares_the_seed_and_6_does_not_wait_for_it(tmp_path: Path, origin: Origin) -> None:
    origin.page("/g", BODY)
    async with grid(tmp_path) as swarm:
        seed = await swarm.host(seed=True, limits=PeerLimits(source_bytes_per_s=64 << 10))
        host = await swarm.host()
        await all_get([host], wish(origin, priority=2))
        assert seed.figures.begun == 0
        await all_get([host], wish(origin, "/g", priority=6))
        assert host.figures.source_bytes > len(BODY)


async def test_a_wish_that_is_more_urgent_raises_the_download(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path) as swarm:
        assert swarm.scheduler is not None
        await swarm.host(seed=True, limits=PeerLimits(source_bytes_per_s=64 << 10))
        host = await swarm.host()
        task, tasks = spec_of(wish(origin)).task_id, swarm.scheduler.core.state.tasks
        async with trio.open_nursery() as nursery:
            nursery.start_soon(all_get, [host], wish(origin))
            await until(lambda: task in tasks)
            assert tasks[task].spec.priority == 3
            await until(lambda: len(tasks[task].at_source) == 1)
            nursery.start_soon(all_get, [host], wish(origin, priority=6))
            await until(lambda: host.id in {peer.member.host.id for peer in tasks[task].at_source})
            assert tasks[task].spec.priority == 6
            nursery.cancel_scope.cancel()


async def test_less_urgent_downloads_leave_places_to_a_more_urgent_one(
    tmp_path: Path, origin: Origin
) -> None:
    origin.page("/less", os.urandom(24 * MIB))
    async with grid(tmp_path) as swarm:
        holder = await swarm.host()
        for path in ("/f", "/less"):
            await holder.get(wish(origin, path))
        host = await swarm.host(limits=PeerLimits(concurrent_pieces=4, download_bytes_per_s=8 * MIB))
        flights = host.means.flights
        less, more = (spec_of(wish(origin, path)).task_id for path in ("/less", "/f"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.get, wish(origin, "/less", priority=3))
            await until(lambda: flights.of(less) > 1)
            nursery.start_soon(host.get, wish(origin, priority=4))
            await until(lambda: more in flights.priorities)
            since = flights.of(less)
            while more in flights.priorities:
                assert flights.of(less) + flights.of(more) <= 4
                assert flights.of(less) <= max(since, 1)  # none is begun above its share
                since = min(since, flights.of(less))
                await trio.sleep(0.005)
            stored = host.store.find(more)
            assert stored is not None
            assert stored.complete
            nursery.cancel_scope.cancel()


async def test_refusals_leave_nothing_behind(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_store, "MOST_EMPTY", 4)
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host()
        assert await host.get(wish(origin)) == BODY
        for number in range(10):
            with pytest.raises(OriginError):
                await host.get(wish(origin, f"/none/{number}"))
        await until(lambda: len(host.store.tasks()) == 5)
        assert await host.get(wish(origin)) == BODY
        assert host.figures.source_bytes == len(BODY)


@pytest.mark.parametrize("length", [True, False])
async def test_an_origin_that_sends_less_than_it_says(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, length: bool
) -> None:
    """Of a body in chunks nobody else sees that it is too short."""

    monkeypatch.setattr(source_share, "PAUSE_S", 0.01)

    def answer(asked: Asked) -> Told:
        if length:  # it says less than it was asked for, and that is what it sends
            return Told(206, {"content-range": f"bytes 0-2/{len(BODY)}"}, b"abc")
        headers = {"content-range": f"bytes 0-{MIB - 1}/{len(BODY)}", "transfer-encoding": "chunked"}
        return Told(206, headers, b"abc")

    origin.pages["/less"] = answer
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host()
        with pytest.raises(RemoteError, match="nothing of the range" if length else "too soon"):
            await host.get(wish(origin, "/less"))
        assert len(origin.asked) <= 6


async def test_a_seed_does_not_ask_its_own_machine_for_others(tmp_path: Path, origin: Origin) -> None:
    """The peer, which wants it itself, goes there."""
    async with grid(tmp_path) as swarm:
        swarm.apart = True
        seed, peer = await swarm.host(seed=True), await swarm.host()
        assert await peer.get(wish(origin)) == BODY
        await until(lambda: seed.figures.failed + seed.figures.succeeded == 1)  # by what the peer gives it
        assert (seed.figures.source_bytes, peer.figures.source_bytes) == (0, len(BODY))


async def test_a_seed_fetches_only_what_a_task_is_called_after(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    """Else whoever registers first gives everybody something else under the name of what they want."""
    expected_logs.expect("it is not seeded")
    origin.page("/evil", b"evil")
    async with grid(tmp_path, scheduled=False) as swarm:
        seed = await swarm.host(seed=True)
        wanted = spec_of(wish(origin))
        for forged in (
            replace(wanted, url=origin.url + "/evil"),
            replace(wanted, tag="x"),
            spec_of(wish(origin, "/evil", headers=(("authorization", "x"),))),
            replace(wanted, url="nonsense"),
        ):
            seed.engine.seed(forged)
        seed.engine.seed(wanted)
        await until(lambda: seed.figures.succeeded == 1)
        assert {asked.target for asked in origin.asked} == {"/f"}
        assert [task.id for task in seed.store.tasks()] == [wanted.task_id]
