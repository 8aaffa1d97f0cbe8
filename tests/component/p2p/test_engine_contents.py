"""Contents that change, that have a digest, or that are not everybody's, in swarms in one process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from cafs.core.digest import Digest
from cafs.errors import IntegrityError, RemoteError
from cafs.p2p import engine, origin_word
from cafs.p2p.content import NotSharedError, OriginError
from cafs.p2p.engine import spec_of
from tests.support.grid import GridHost, grid, until
from tests.support.grid_wishes import BODY, DIGEST, wish
from tests.support.logs import ExpectedLogs
from tests.support.proxying import Asked, Origin, Told, serve_origin

pytestmark = pytest.mark.usefixtures("bounded")


async def test_what_changes_under_way_is_never_mixed(tmp_path: Path, origin: Origin) -> None:
    other, answers = os.urandom(len(BODY)), [0]
    good = origin.pages["/f"]
    origin.page("/new", other, etag='"2"')
    new = origin.pages["/new"]

    def answer(asked: Asked) -> Told:
        answers[0] += 1
        return good(asked) if answers[0] <= 2 else new(asked)

    origin.pages["/f"] = answer
    async with grid(tmp_path, scheduled=False) as swarm:
        with pytest.raises(RemoteError, match="changed under way"):
            await (await swarm.host()).get(wish(origin))


@pytest.mark.parametrize("version", ["2", "2" * 300])
async def test_what_has_changed_since_is_another_task(tmp_path: Path, origin: Origin, version: str) -> None:
    async with grid(tmp_path) as swarm:
        host, other = await swarm.host(), await swarm.host()
        assert await host.get(wish(origin)) == BODY
        newer = BODY[::-1]
        origin.page("/f", newer, etag=f'"{version}"')
        assert await host.get(wish(origin)) == newer
        assert await host.get(wish(origin)) == newer
        # Who never had it gets what the swarm has, as of a moment ago.
        assert await other.get(wish(origin)) in {BODY, newer}


LONG_AGO = "Sun, 29 Nov 2020 12:00:00 GMT"


PRIVATE = (("Authorization", "Basic eDp5"),)


@pytest.mark.parametrize(
    ("said", "headers"),
    [
        ({"etag": '"1"', "date": LONG_AGO}, ()),
        ({"etag": '"1"', "date": LONG_AGO}, PRIVATE),
        ({"last_modified": LONG_AGO, "date": LONG_AGO, "cache_control": "max-age=60"}, ()),
        ({"date": LONG_AGO}, ()),  # a length is all that there is to compare
    ],
    ids=["etag", "etag-private", "last-modified", "length"],
)
async def test_who_never_had_it_gets_no_older_one_than_the_origin_has(
    tmp_path: Path, origin: Origin, said: dict[str, str], headers: tuple[tuple[str, str], ...]
) -> None:
    newer = BODY[::-1][:-1]
    origin.page("/f", BODY, **said)
    async with grid(tmp_path) as swarm:
        first, second, third = [await swarm.host() for _ in range(3)]
        assert await first.get(wish(origin, headers=headers)) == BODY
        asked = len(origin.asked)
        assert await second.get(wish(origin, headers=headers)) == BODY
        assert {one.headers["range"] for one in origin.asked[asked:]} == {"bytes=0-0"}
        assert not any("if-range" in one.headers for one in origin.asked[asked:])  # it would be sent whole
        origin.page("/f", newer, **said | {"etag": '"2"'})
        assert await third.get(wish(origin, headers=headers, first_byte=7, last_byte=9)) == newer[7:10]
        assert await third.get(wish(origin, headers=headers)) == newer


@pytest.mark.parametrize(
    "said", [{"cache_control": "max-age=60"}, {"date": LONG_AGO}], ids=["fresh", "stale"]
)
@pytest.mark.parametrize("header", [("Cache-Control", "no-cache"), ("Pragma", "no-cache")])
async def test_a_client_may_want_the_origins_word(
    tmp_path: Path, origin: Origin, said: dict[str, str], header: tuple[str, str]
) -> None:
    newer = BODY[::-1]
    origin.page("/f", BODY, etag='"1"', **said)
    async with grid(tmp_path) as swarm:
        host, other = await swarm.host(), await swarm.host()
        assert await host.get(wish(origin)) == BODY
        origin.page("/f", newer, etag='"2"', **said)
        for one in (other, host):
            assert await one.get(wish(origin, headers=(header,))) == newer


@pytest.mark.parametrize(("status", "is_heard"), [(503, False), (429, False), (404, True), (403, True)])
async def test_an_origin_that_fails_is_not_heard_and_one_that_refuses_is(
    tmp_path: Path, origin: Origin, status: int, is_heard: bool
) -> None:
    origin.page("/f", BODY, etag='"1"', date=LONG_AGO)
    async with grid(tmp_path) as swarm:
        host, other = await swarm.host(), await swarm.host()
        assert await host.get(wish(origin)) == BODY
        origin.page("/f", b"no", status=status)
        for one in (other, host):
            if is_heard:
                with pytest.raises(OriginError) as caught:
                    await one.get(wish(origin))
                assert (caught.value.status, caught.value.body) == (status, b"no")
            else:
                assert await one.get(wish(origin)) == BODY


async def test_what_has_changed_is_known_of_the_latest_only(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of others the origin says it again."""
    monkeypatch.setattr(engine, "_VERSIONS", 2)
    caplog.set_level("INFO")
    paths = ["/a", "/b", "/c"]
    async with grid(tmp_path) as swarm:
        host = await swarm.host()
        for path in paths:
            origin.page(path, BODY, etag='"1"')
            assert await host.get(wish(origin, path)) == BODY
            origin.page(path, BODY[::-1], etag='"2"')
            assert await host.get(wish(origin, path)) == BODY[::-1]
        told = caplog.text.count("has changed at its origin")
        for path in paths:
            assert await host.get(wish(origin, path)) == BODY[::-1]
        assert caplog.text.count("has changed at its origin") > told == len(paths)


async def test_what_is_here_is_given_while_the_origin_is_dead(tmp_path: Path) -> None:
    async with grid(tmp_path) as swarm:
        host, other = await swarm.host(), await swarm.host()
        async with serve_origin() as origin:
            origin.page("/f", BODY, etag='"1"')
            assert await host.get(wish(origin)) == BODY
        assert await host.get(wish(origin)) == BODY
        assert await other.get(wish(origin)) == BODY
        assert other.figures.peer_bytes == len(BODY)


async def test_a_silent_origin_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_word, "ORIGIN_S", 0.2)
    connections = 0

    async def say_nothing(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await trio.sleep_forever()

    async with grid(tmp_path) as swarm, trio.open_nursery() as nursery:
        host = await swarm.host()
        async with serve_origin() as origin:
            origin.page("/f", BODY, etag='"1"', date=LONG_AGO)
            assert await host.get(wish(origin)) == BODY
        port = int(origin.host.rpartition(":")[2])
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, say_nothing, listeners)
        for first in range(3):
            assert await host.get(wish(origin, first_byte=first, last_byte=9)) == BODY[first:10]
        assert connections == 1
        nursery.cancel_scope.cancel()


async def test_a_digest_decides_at_the_end(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    async with grid(tmp_path) as swarm:
        host = await swarm.host()
        assert await host.get(wish(origin, digest=DIGEST)) == BODY
        origin.page("/f", BODY[:-1] + b"x")
        wrong = Digest("sha256:" + "0" * 64)
        with pytest.raises(IntegrityError):
            await host.get(wish(origin, digest=wrong))
        await until(lambda: host.store.find(spec_of(wish(origin, digest=wrong)).task_id) is None)
        asked = len(origin.asked)
        assert await host.get(wish(origin, "/elsewhere", digest=DIGEST)) == BODY  # wherever it comes from
        assert len(origin.asked) == asked


async def test_private_content_is_for_those_whom_the_origin_accepts(tmp_path: Path, origin: Origin) -> None:
    good = origin.pages["/f"]

    def answer(asked: Asked) -> Told:
        return good(asked) if asked.headers.get("authorization") == "Bearer right" else Told(401, {}, b"who?")

    origin.pages["/f"] = answer
    right, wrong = (("authorization", "Bearer right"),), (("authorization", "Bearer wrong"),)
    async with grid(tmp_path) as swarm:
        assert swarm.scheduler is not None
        host, other = await swarm.host(), await swarm.host()
        seed = await swarm.host(seed=True)
        assert await host.get(wish(origin, headers=right)) == BODY
        for who in (host, other):
            for headers in (wrong, ()):
                with pytest.raises(OriginError) as refused:
                    await who.get(wish(origin, headers=headers))
                assert refused.value.status == 401
        assert await other.get(wish(origin, headers=right)) == BODY
        assert other.figures.peer_bytes > 0
        assert seed.figures.source_bytes == 0
        assert "right" not in repr(vars(swarm.scheduler.core))


@pytest.mark.parametrize("told", [{"cache_control": "max-age=60, private"}, {"vary": "*"}])
async def test_what_its_origin_lets_nobody_share(
    tmp_path: Path, origin: Origin, told: dict[str, str]
) -> None:
    """Of many who want it at once, each hears it, and none that the origin fails."""
    origin.page("/own", BODY, etag='"1"', **told)
    async with grid(tmp_path) as swarm:
        await swarm.host(seed=True)
        hosts = [await swarm.host() for _ in range(10)]

        async def ask(host: GridHost) -> None:
            with pytest.raises(NotSharedError):
                await host.get(wish(origin, "/own"))

        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(ask, host)
        assert not any(task.have.bits for host in hosts for task in host.store.tasks())
        asked = len(origin.asked)
        await ask(hosts[0])  # it is remembered
        assert len(origin.asked) == asked
        assert await hosts[0].get(wish(origin, "/own", digest=DIGEST)) == BODY  # which says what it is
        assert await hosts[1].get(wish(origin, "/own", digest=DIGEST)) == BODY
        assert hosts[1].figures.peer_bytes == len(BODY)


async def test_what_is_held_and_shared_no_more(tmp_path: Path, origin: Origin) -> None:
    async with grid(tmp_path, scheduled=False) as swarm:
        host = await swarm.host()
        assert await host.get(wish(origin)) == BODY
        origin.page("/f", BODY, etag='"1"', cache_control="no-store")
        with pytest.raises(NotSharedError):
            await host.get(wish(origin))


async def test_what_varies_is_for_those_who_ask_alike(tmp_path: Path, origin: Origin) -> None:
    def answer(asked: Asked) -> Told:
        language = asked.headers.get("accept-language", "none")
        return Told(200, {"vary": "Accept-Language", "cache-control": "max-age=60"}, language.encode())

    origin.pages["/page"] = answer
    async with grid(tmp_path) as swarm:
        await swarm.host(seed=True)
        host, other = await swarm.host(), await swarm.host()
        german = wish(origin, "/page", headers=(("accept-language", "de"),))
        for _ in range(2):  # before anybody has it, and after
            with pytest.raises(NotSharedError, match="Vary"):
                await host.get(german)
            assert await host.get(wish(origin, "/page")) == b"none"
            assert await other.get(wish(origin, "/page")) == b"none"
