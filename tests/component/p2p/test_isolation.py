"""What fails, fails alone: a task, a host's disk, an origin; and clocks that jump."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cafs.core.swarm import origin_health
from cafs.errors import CafsError, RemoteError, StorageError
from cafs.p2p import source_share
from cafs.p2p.content import OriginError, Wish
from tests.support.grid import GridHost, grid
from tests.support.logs import ExpectedLogs
from tests.support.proxying import Asked, Origin, Told, serve_origin

MIB = 1 << 20
BODY = os.urandom(4 * MIB + 321)
pytestmark = pytest.mark.usefixtures("bounded")


def wish(origin: Origin, path: str = "/f") -> Wish:
    return Wish(url=origin.url + path)


async def check(host: GridHost, origin: Origin) -> None:
    assert await host.get(wish(origin)) == BODY


def in_a_circle(_: Asked) -> Told:
    return Told(302, {"location": "/bad"}, b"")


def lies_about_its_length(_: Asked) -> Told:
    return Told(200, {"content-length": "9000000"}, BODY[:1000], whole=False)


def other_ranges(_: Asked) -> Told:
    return Told(206, {"content-range": f"bytes 7-9/{len(BODY)}"}, b"abc")


def silent_resets(_: Asked) -> Told:
    return Told(200, {"content-length": "5"}, b"", whole=False)


@pytest.mark.parametrize("page", [in_a_circle, lies_about_its_length, other_ranges, silent_resets])
async def test_an_origins_bad_page_fails_its_own_task_only(
    tmp_path: Path, origin: Origin, page: Callable[[Asked], Told]
) -> None:
    """All hosts hear an error in bounded time, and nothing of it is kept; another content comes meanwhile."""
    origin.pages["/bad"] = page
    async with grid(tmp_path) as swarm:
        hosts = [await swarm.host() for _ in range(2)]

        async def fail(host: GridHost) -> None:
            with pytest.raises(RemoteError):
                await host.get(wish(origin, "/bad"))

        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(fail, host)
                nursery.start_soon(check, host, origin)
        for host in hosts:
            assert host.figures.unforeseen == 0
            assert sum(task.held_bytes for task in host.store.tasks()) == len(BODY)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
async def test_an_origins_refusal_of_one_content(tmp_path: Path, origin: Origin, status: int) -> None:
    """It comes through with its status; another origin's content comes all the same."""
    async with grid(tmp_path) as swarm, serve_origin() as bad:
        bad.page("/no", b"no", status)
        host, other = await swarm.host(), await swarm.host()

        async def fail(host: GridHost) -> None:
            with pytest.raises(CafsError) as refused:
                await host.get(wish(bad, "/no"))
            assert getattr(refused.value, "status", status) == status
            assert isinstance(refused.value, OriginError) or status >= 429

        async with trio.open_nursery() as nursery:
            for one in (host, other):
                nursery.start_soon(fail, one)
                nursery.start_soon(check, one, origin)


async def test_who_was_at_the_origin_tells_what_is_wrong_there(tmp_path: Path) -> None:
    """The scheduler knows only that pieces did not come."""
    async with grid(tmp_path) as swarm, serve_origin() as bad:
        bad.pages["/bad"] = in_a_circle
        with pytest.raises(RemoteError, match="circle"):
            await (await swarm.host()).get(wish(bad, "/bad"))


@pytest.mark.parametrize("scheduled", [True, False])
async def test_an_origin_that_failed_others_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheduled: bool
) -> None:
    """And what it then says is the answer, not that it was left alone meanwhile, nor a scheduler's words."""
    monkeypatch.setattr(origin_health, "TOGETHER_S", 0.0)
    monkeypatch.setattr(origin_health, "FIRST_PAUSE_S", 0.5)
    monkeypatch.setattr(source_share, "PAUSE_S", 0.01)
    monkeypatch.setattr(source_share, "PATIENCE_S", 0.0001)
    async with grid(tmp_path, scheduled=scheduled) as swarm, serve_origin() as bad:
        bad.page("/one", b"no", 503)
        bad.page("/two", b"no", 503)
        host = await swarm.host()
        for path in ("/one", "/two"):
            with pytest.raises(OriginError) as refused:
                await host.get(wish(bad, path))
            assert refused.value.status == 503
        if not scheduled:  # else the scheduler has sent nobody there again, before it is left alone
            assert [asked.target for asked in bad.asked].count("/two") == 1


async def test_a_host_without_room_fails_alone(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    """Its reader hears why; everybody else has all of it, and it can still have what fits."""
    expected_logs.allow("room|full|in use")
    origin.page("/small", b"it fits")
    async with grid(tmp_path) as swarm:
        full, host = await swarm.host(quota_bytes=2 * MIB), await swarm.host()

        async def fail() -> None:
            with pytest.raises(StorageError):
                await full.get(wish(origin))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            nursery.start_soon(check, host, origin)
        assert await full.get(wish(origin, "/small")) == b"it fits"
        assert full.figures.unforeseen == 0


async def test_what_a_cache_before_the_origin_held_for_long_is_asked_for_again(
    tmp_path: Path, origin: Origin
) -> None:
    origin.page("/f", BODY, etag='"1"', cache_control="max-age=3600", age="3600")
    async with grid(tmp_path) as swarm:
        host = await swarm.host()
        await check(host, origin)
        asked = len(origin.asked)
        await check(host, origin)
        assert [one.headers["range"] for one in origin.asked[asked:]] == ["bytes=0-0"]


@pytest.mark.parametrize("years", [-30, 30])
async def test_a_clock_that_jumps(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    """What seemed fresh is asked for again, by one byte; deadlines do not move, and nothing is lost."""
    origin.page("/f", BODY, etag='"1"', cache_control="max-age=3600")
    jumped, now = [0], time.time
    monkeypatch.setattr(time, "time", lambda: now() + jumped[0] * 365 * 86_400)
    async with grid(tmp_path) as swarm:
        host, other = await swarm.host(), await swarm.host()
        await check(host, origin)
        asked = len(origin.asked)
        await check(host, origin)
        assert len(origin.asked) == asked
        jumped[0] = years
        await check(host, origin)
        assert [one.headers["range"] for one in origin.asked[asked:]] == ["bytes=0-0"]
        await check(other, origin)
        assert other.figures.peer_bytes == len(BODY)
