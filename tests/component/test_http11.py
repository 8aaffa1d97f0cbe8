"""The HTTP shell over real sockets: streams, keep-alive, bounds, clients that leave, and hostile ones."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from cafs.http11.messages import Answer, Handler, Reply, Request, ServerLimits
from cafs.http11.server import serve_http
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S

GET = b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n"


async def handler(request: Request, reply: Reply) -> None:
    match request.path:
        case "/chunked":
            async with reply.stream(200, None) as send:
                for part in (b"one", b"", b"two"):
                    await send(part)
        case "/counted":
            async with reply.stream(200, 600_000, headers=(("X-Of", "ours"),)) as send:
                await send(memoryview(bytes(600_000)))
        case "/short":
            async with reply.stream(200, 10) as send:
                await send(b"123")
                raise ValueError("a defect in the middle")
        case "/small":
            async with reply.stream(200, 3) as send:
                await send(b"abc")
        case "/silent":
            pass
        case _:
            text = f"{request.method} {request.path} {request.parameter('a')} {len(request.body)}"
            await reply.send(Answer(200, text.encode(), "text/plain"))


@asynccontextmanager
async def served(act: Handler = handler, limits: ServerLimits | None = None) -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_http, listener, act, limits)
            yield listener.getsockname()[1]
            nursery.cancel_scope.cancel()


async def read_until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        piece = await stream.receive_some()
        assert piece, received
        received += piece
    return received


async def read_all(stream: trio.SocketStream) -> bytes:
    received = b""
    try:
        while piece := await stream.receive_some():
            received += piece
    except trio.BrokenResourceError:
        pass
    return received


async def test_streams_and_whole_answers_share_one_connection() -> None:
    async with served() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(GET % b"chunked")
        assert b"transfer-encoding: chunked" in (
            answer := (await read_until(stream, b"0\r\n\r\n")).lower()
        ), answer
        assert answer.endswith(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
        await stream.send_all(GET % b"counted")
        head, _, body = (await read_until(stream, bytes(600_000))).partition(b"\r\n\r\n")
        assert b"Content-Length: 600000" in head
        assert b"X-Of: ours" in head
        assert len(body) == 600_000
        await stream.send_all(GET % b"x?a=b%20c" + GET % b"y")  # two at once
        assert b"GET /y None 0" in await read_until(stream, b"GET /y None 0")


async def test_a_small_stream_leaves_in_one_packet() -> None:
    async with served() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(GET % b"small")
        assert (await stream.receive_some()).endswith(b"\r\n\r\nabc")


async def test_head_has_no_body() -> None:
    async with served() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for path in (b"counted", b"chunked", b"x"):
            await stream.send_all(b"HEAD /" + path + b" HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_old_clients_get_a_stream_that_ends_with_the_connection() -> None:
    async with served() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET /chunked HTTP/1.0\r\n\r\n")
        assert (await read_all(stream)).endswith(b"\r\n\r\nonetwo")


async def test_a_body_that_was_promised_is_asked_for() -> None:
    async with served() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await read_until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await stream.send_all(b"abc")
        assert (await read_until(stream, b"None 3")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"400",
        ),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b"400"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost : h\r\n\r\n", b"400"),
        (b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"CONNECT example.org:443 HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 262145\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", b"431"),
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused_and_ends_the_connection(
    sent: bytes, status: bytes
) -> None:
    async with served() as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(sent + GET % b"smuggled")
        await stream.send_eof()
        answer = await read_all(stream)
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        assert answer.count(b"HTTP/1.1") == 1
        assert b'"reason": "bad_request"' in answer


async def test_a_client_that_leaves_ends_its_handler() -> None:
    begun, ended = trio.Event(), trio.Event()

    async def wait(_request: Request, reply: Reply) -> None:
        try:
            async with reply.stream(200, None) as send:
                await send(b"first")
                begun.set()
                await trio.sleep_forever()
        finally:
            ended.set()

    async with served(wait) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(GET % b"x")
        await begun.wait()
        await stream.aclose()
        with trio.fail_after(PATIENCE_S):
            await ended.wait()


async def test_what_was_begun_and_failed_is_broken_off(expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("failed in an unforeseen way")
    async with served() as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(GET % b"short")
            assert (await read_all(stream)).endswith(b"\r\n\r\n123")
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(GET % b"silent")
            assert (await read_until(stream, b"}\n")).startswith(b"HTTP/1.1 500")


async def test_connections_of_one_client_are_bounded() -> None:
    async with served(limits=ServerLimits(client_connections=2)) as port:
        streams = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(2)]
        for stream in streams:
            await stream.send_all(GET % b"x")
            await read_until(stream, b"None 0")
        async with await trio.open_tcp_stream("127.0.0.1", port) as third:
            assert await read_all(third) == b""
        for stream in streams:
            await stream.aclose()


async def test_slow_clients_are_left() -> None:
    async def endless(_request: Request, reply: Reply) -> None:
        async with reply.stream(200, None) as send:
            while True:
                await send(bytes(1 << 20))

    limits = ServerLimits(request_s=0.05, idle_s=0.05, send_s=0.05)
    async with served(endless, limits) as port:
        for sent in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na"):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(sent)
                with trio.fail_after(PATIENCE_S):
                    assert await read_all(stream) == b""
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(GET % b"x")
            await trio.sleep(0.2)  # takes nothing
            with trio.fail_after(PATIENCE_S):
                received = await read_all(stream)
            assert not received.endswith(b"0\r\n\r\n")
