"""Going to the origin: what comes through whole, and what an origin that misbehaves gets."""

from __future__ import annotations

import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing

from cafs.core.proxying.guard import parse_guard
from cafs.core.swarm import origin_health
from cafs.core.swarm.origin_health import Breaker
from cafs.errors import CafsError, ProtocolError, RemoteError, UsageError
from cafs.oci.registry.exchange import Patience
from cafs.p2p.content import Headers, OriginError
from cafs.p2p.source import (
    ChangedError,
    ForbiddenAddressError,
    Guard,
    LeftAloneError,
    Limits,
    SourceAnswer,
    Sources,
    Unpaced,
)
from cafs.p2p.source_runs import is_lasting
from tests.support.scripted_server import ScriptedServer, serve_script

PATIENCE = Patience(connect_s=2.0, stall_s=0.3, room_s=2.0)
PART = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-4/9\r\nContent-Length: 3\r\n"
    b'ETag: "a"\r\nContent-Type: text/x\r\n\r\ncde'
)


@pytest.fixture
async def sources() -> AsyncIterator[Sources]:
    made = Sources(PATIENCE, Limits(), Unpaced())
    yield made
    await made.aclose()


def answering(*answers: bytes) -> AbstractAsyncContextManager[ScriptedServer]:
    """A server that gives these answers in turn, each over its own connection; the last one ever again."""
    left = list(answers)

    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(left.pop(0) if len(left) > 1 else left[0])

    return serve_script(say)


async def read(
    sources: Sources,
    url: str,
    first: int | None = 2,
    last: int | None = 4,
    guard: Guard | None = None,
    headers: Headers = (),
    *,
    for_others: bool = False,
) -> tuple[SourceAnswer, bytes]:
    async with sources.open(url, headers, first, last, guard, for_others=for_others) as answer:
        body = b""
        while data := await answer.receive():
            body += data
        return answer, body


async def test_a_range(sources: Sources) -> None:
    async with answering(PART) as server:
        guard = Guard('"a"', None, 9)
        headers = (
            ("Authorization", "Bearer s"),
            ("Range", "bytes=7-"),
            ("If-None-Match", "x"),
            ("Host", "h"),
        )
        answer, body = await read(sources, f"http://{server.host}/f?x=1", guard=guard, headers=headers)
    assert (body, answer.first_byte, answer.last_byte, answer.content_bytes) == (b"cde", 2, 4, 9)
    assert answer.takes_ranges
    assert answer.guard == guard
    assert dict(answer.headers)["content-type"] == "text/x"
    request = server.heads[0].lower()
    assert request.startswith(b"get /f?x=1 http/1.1\r\n")
    assert b"\r\nrange: bytes=2-4\r\n" in request
    assert b'\r\nif-range: "a"\r\n' in request
    assert b"\r\nauthorization: bearer s\r\n" in request
    assert b"\r\naccept-encoding: identity\r\n" in request
    assert b"if-none-match" not in request
    assert request.count(b"\r\nhost:") == 1


async def test_an_origin_that_ignores_ranges(sources: Sources) -> None:
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabcdefghi") as server:
        answer, body = await read(sources, f"http://{server.host}/")
    assert (body, answer.first_byte, answer.last_byte, answer.content_bytes) == (b"abcdefghi", 0, 8, 9)
    assert not answer.takes_ranges


async def test_a_length_that_is_not_said(sources: Sources) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with answering(chunked) as server:
        answer, body = await read(sources, f"http://{server.host}/", None, None)
    assert (body, answer.last_byte, answer.content_bytes) == (b"abc", None, None)


@pytest.mark.parametrize("status", [401, 403, 404, 416, 429, 500, 503])
async def test_an_error_comes_through_whole(sources: Sources, status: int) -> None:
    said = b"HTTP/1.1 %d No\r\nWWW-Authenticate: Basic\r\nContent-Length: 3\r\n\r\nwhy" % status
    async with answering(said) as server:
        with pytest.raises(OriginError) as error:
            await read(sources, f"http://{server.host}/secret-path?token=1")
    assert (error.value.status, error.value.body) == (status, b"why")
    assert ("www-authenticate", "Basic") in error.value.headers
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (PART.replace(b"2-4/9", b"3-5/9"), ProtocolError),
        (PART.replace(b"Content-Range", b"X"), ProtocolError),
        (PART.replace(b"2-4/9", b"2-8/9").replace(b"h: 3", b"h: 7") + b"fghi", ProtocolError),
        (PART.replace(b"h: 3", b"h: 30"), RemoteError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc", RemoteError),
        (b"nonsense\r\n\r\n", RemoteError),
        (b"", RemoteError),
    ],
)
async def test_origins_that_lie(sources: Sources, answer: bytes, kind: type[CafsError]) -> None:
    async with answering(answer) as server:
        with pytest.raises(kind):
            await read(sources, f"http://{server.host}/")


@pytest.mark.parametrize(
    "guard", [Guard('"b"', None, 9), Guard(None, None, 8), Guard('"a"', None, 10), Guard('"b"', None, None)]
)
async def test_content_that_changes_under_way(sources: Sources, guard: Guard) -> None:
    async with answering(PART) as server:
        with pytest.raises(ChangedError):
            await read(sources, f"http://{server.host}/", guard=guard)


async def redirected(sources: Sources, to: Callable[[str], str]) -> ScriptedServer:
    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        head = await server.read_request(stream)
        place = to(server.host + head.split()[1].decode())
        location = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
        await stream.send_all(PART if place == "here" else location.encode())

    async with serve_script(say) as server:
        await read(sources, f"http://{server.host}/a", headers=(("Authorization", "s"), ("Accept", "x/y")))
    return server


async def test_redirects_are_followed(sources: Sources) -> None:
    server = await redirected(sources, lambda at: "/b" if at.endswith("/a") else "here")
    assert [head.split()[1] for head in server.heads] == [b"/a", b"/b"]
    assert all(b"Authorization" in head for head in server.heads)


async def test_credentials_go_to_the_first_origin_only(sources: Sources) -> None:
    async with answering(PART) as other:
        location = f"HTTP/1.1 307 Go\r\nLocation: http://{other.host}/b\r\nContent-Length: 0\r\n\r\n".encode()
        async with answering(location) as server:
            shown = [(n, "x") for n in ("Authorization", "Cookie", "Private-Token", "X-JFrog-Art-Api")]
            _, body = await read(sources, f"http://{server.host}/", headers=tuple(shown))
    assert body == b"cde"
    for name, _ in shown:
        assert name.encode() in server.heads[0]
        assert name.encode() not in other.heads[0]


@pytest.mark.parametrize("name", ["0x7f.1", "2130706433", "0.0.0.0"])
async def test_a_name_that_leads_to_this_machine(sources: Sources, name: str) -> None:
    async with answering(PART) as server:
        port = server.host.partition(":")[2]
        with pytest.raises(ForbiddenAddressError, match="proxy_allow"):
            await read(sources, f"http://{name}:{port}/")
        assert server.heads == []


async def test_nobody_is_sent_on_to_this_machine() -> None:
    async with answering(PART) as inside:
        location = f"HTTP/1.1 302 Go\r\nLocation: http://{inside.host}/b\r\nContent-Length: 0\r\n\r\n"
        async with answering(location.encode()) as outside:
            named = f"0x7f.1:{outside.host.partition(':')[2]}"
            sources = Sources(PATIENCE, Limits(), Unpaced(), guard=parse_guard([named]))
            with pytest.raises(ForbiddenAddressError) as error:
                await read(sources, f"http://{named}/a")
            await sources.aclose()
        assert len(outside.heads) == 1
        assert inside.heads == []
    assert is_lasting(error.value)


async def test_what_only_this_machine_reaches_is_for_its_own_wishes() -> None:
    async with answering(PART) as server:
        port = server.host.partition(":")[2]
        names = [f"127.0.0.1:{port}", f"localhost:{port}"]
        for allowed, is_here in ((), False), (("127.0.0.0/8",), False), ((), True):
            sources = Sources(
                PATIENCE, Limits(), Unpaced(), guard=parse_guard(allowed), others_are_here=is_here
            )
            for name in names:
                asked = len(server.heads)
                await read(sources, f"http://{name}/")  # and its connection is kept
                if allowed or is_here:
                    await read(sources, f"http://{name}/", for_others=True)
                else:
                    with pytest.raises(ForbiddenAddressError, match="proxy_allow"):
                        await read(sources, f"http://{name}/", for_others=True)
                assert len(server.heads) - asked == 1 + bool(allowed or is_here)
            await sources.aclose()


@pytest.mark.parametrize(
    "to", [lambda at: "/a", lambda at: "/" + at.partition("/")[2] + "x", lambda at: "ftp://h/"]
)
async def test_redirects_without_end(sources: Sources, to: Callable[[str], str]) -> None:
    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        place = to(server.host + (await server.read_request(stream)).split()[1].decode())
        answer = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n"
        await stream.send_all(answer.encode())

    async with serve_script(say) as server:
        with pytest.raises(ProtocolError):
            await read(sources, f"http://{server.host}/a")
        assert len(server.heads) <= 11


async def test_an_origin_that_fails_is_left_alone(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_health, "TOGETHER_S", 0.0)
    async with answering(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n") as server:
        for _ in range(5):
            with pytest.raises(OriginError):
                await read(sources, f"http://{server.host}/")
        with pytest.raises(LeftAloneError) as error:
            await read(sources, f"http://{server.host}/")
        assert len(server.heads) == 5
    assert error.value.retry_after_s


async def test_many_origins_leave_little_behind(sources: Sources) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    before = count(Breaker)
    for number in range(1100):
        with pytest.raises(RemoteError):  # nobody listens there
            await read(sources, f"http://127.0.{number >> 8}.{number & 255}:{port}/")
    assert 0 < count(Breaker) - before <= 1024


def count(kind: type) -> int:
    """How many of them there are in this process."""
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


async def test_an_origin_that_asks_for_a_pause_gets_it(sources: Sources) -> None:
    async with answering(b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n") as server:
        with pytest.raises(OriginError) as error:
            await read(sources, f"http://{server.host}/")
        assert error.value.retry_after_s == 7
        with pytest.raises(LeftAloneError):
            await read(sources, f"http://{server.host}/")
        assert len(server.heads) == 1


async def test_so_many_at_once_and_no_more() -> None:
    sources = Sources(PATIENCE, Limits(concurrency=2), Unpaced())
    async with answering(PART) as server:
        url, waiting = f"http://{server.host}/", trio.Event()

        async def third() -> None:
            await read(sources, url)
            waiting.set()

        async with trio.open_nursery() as nursery:
            async with sources.open(url, (), 2, 4, None), sources.open(url, (), 2, 4, None):
                nursery.start_soon(third)
                await trio.testing.wait_all_tasks_blocked()
                assert len(server.heads) == 2
            await waiting.wait()
    await sources.aclose()


async def test_only_http_is_fetched(sources: Sources) -> None:
    with pytest.raises(UsageError):
        await read(sources, "file:///etc/passwd")
