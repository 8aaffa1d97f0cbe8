"""Both clients against the real HTTP shell, and what clients that are broken or hostile get."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from cafs.control_socket.blocking import BlockingClient
from cafs.control_socket.client import MountServerClient
from cafs.control_socket.protocol import (
    MAX_REQUEST_BYTES,
    AddedLayer,
    AddLayer,
    AwayError,
    Reason,
    RefusedError,
    encode_json,
    parse_add_layer,
)
from cafs.core.digest import Digest
from cafs.errors import ProtocolError
from cafs.node.mountd.http_server import Answer, Handler, Request, refuse, serve_http
from tests.support.asyncio_thread import run_asyncio
from tests.support.logs import ExpectedLogs

DIGEST = Digest("sha256:" + "a" * 64)
WANTED = AddLayer("example.org/app:v1", DIGEST, DIGEST)
ADDED: dict[str, Any] = {
    "name": "b" * 64,
    "path": "layers/" + "b" * 64,
    "virtual_bytes": 8192,
    "data_bytes": 4096,
    "hides": False,
}


async def fake(request: Request) -> Answer:
    await trio.lowlevel.checkpoint()
    match request.method, request.path:
        case "POST", "/layers":
            parse_add_layer(request.body)
            return Answer(200, encode_json({**ADDED, "of a later version": 1}))
        case "DELETE", _:
            return refuse(Reason.UNKNOWN, f"no layer\n{request.path}")
        case "GET", "/layers":
            return Answer(200, encode_json({"layers": [ADDED] * 3000}))
        case "PUT", "/credentials":
            return Answer(204, b"")
    raise ValueError("a defect")


@asynccontextmanager
async def served(path: Path, handler: Handler = fake) -> AsyncIterator[Path]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_http, listener, handler)
            yield path
            nursery.cancel_scope.cancel()


@pytest.fixture
def path(short_tmp_path: Path) -> Path:
    return short_tmp_path / "s"


async def test_asyncio_client(path: Path) -> None:
    async def use() -> None:
        client = MountServerClient(path)
        assert await client.add_layer(WANTED) == AddedLayer(**ADDED)
        assert len(await client.layers()) == 3000
        await client.put_credentials({"host": "example.org", "username": "u", "secret": "s"})
        with pytest.raises(RefusedError, match=r"no layer /layers/b+$") as refused:
            await client.remove_layer("b" * 64)
        assert refused.value.reason is Reason.UNKNOWN

    async with served(path):
        await trio.to_thread.run_sync(run_asyncio, use)


async def test_blocking_client(path: Path) -> None:
    async with served(path):
        client = BlockingClient(path)
        assert (await trio.to_thread.run_sync(client.add_layer, WANTED)).virtual_bytes == 8192
        assert len(await trio.to_thread.run_sync(client.layers)) == 3000
        with pytest.raises(RefusedError):
            await trio.to_thread.run_sync(client.remove_layer, "b" * 64)


async def test_nobody_listens(path: Path) -> None:
    client = MountServerClient(path, away_patience_s=0.02)
    with pytest.raises(AwayError, match="is cafs mountd running"):
        await trio.to_thread.run_sync(run_asyncio, client.status)
    with pytest.raises(AwayError):
        await trio.to_thread.run_sync(BlockingClient(path, away_patience_s=0.02).status)


async def test_a_request_that_a_killed_server_took_is_sent_again(path: Path) -> None:
    """The listening socket stays open, the connections of the killed server break."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        seen = trio.Event()

        async def never(_request: Request) -> Answer:
            seen.set()
            await trio.sleep_forever()
            raise AssertionError

        answers: list[AddedLayer] = []
        answered = trio.Event()

        async def ask() -> None:
            add = partial(MountServerClient(path).add_layer, WANTED)
            answers.append(await trio.to_thread.run_sync(run_asyncio, add))
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            async with trio.open_nursery() as first:
                first.start_soon(serve_http, listener, never)
                await seen.wait()
                first.cancel_scope.cancel()
            async with trio.open_nursery() as second:
                second.start_soon(serve_http, listener, fake)
                await answered.wait()
                second.cancel_scope.cancel()


async def test_what_is_no_mount_server_is_said_to_be_none(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def babble() -> None:
            with listener.accept()[0] as connection:
                assert connection.recv(64 << 10)  # a request that cannot be sent is sent again
                connection.sendall(b"220 smtp\r\n\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, babble)
            with pytest.raises(ProtocolError, match="no HTTP"):
                await trio.to_thread.run_sync(BlockingClient(path).status)


async def exchange(path: Path, sent: bytes) -> bytes:
    async with await trio.open_unix_socket(str(path)) as stream:
        try:
            await stream.send_all(sent)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass  # refused before all was sent
        received = b""
        try:
            while piece := await stream.receive_some():
                received += piece
        except trio.BrokenResourceError:
            pass
        return received


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /layers HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: m\r\n\r\n", b"431"),
        (b"POST /layers HTTP/1.1\r\nHost: m\r\nContent-Length: 9999999\r\n\r\n" + bytes(300 << 10), b"413"),
        (b"POST /layers HTTP/1.1\r\nHost: m\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /layers HTTP/1.1\r\nHost: m\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    ],
)
async def test_malformed_requests(path: Path, sent: bytes, status: bytes) -> None:
    async with served(path):
        answer = await exchange(path, sent)
        assert answer.startswith(b"HTTP/1.1 " + status), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["reason"] == "bad_request"
        # And whoever comes next is served.
        assert (await exchange(path, b"GET /layers HTTP/1.1\r\nHost: m\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_half_a_request_and_no_request(path: Path) -> None:
    async with served(path):
        assert b" 400 " in await exchange(
            path, b"POST /layers HTTP/1.1\r\nHost: m\r\nContent-Length: 5\r\n\r\nab"
        )
        assert await exchange(path, b"") == b""


async def test_several_requests_on_one_connection(path: Path) -> None:
    async with served(path):
        one = b"DELETE /layers/x HTTP/1.1\r\nHost: m\r\n\r\n"
        assert (await exchange(path, one * 3)).count(b"HTTP/1.1 404") == 3


async def test_a_defect_is_one_answer(path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect(r"failed in an unforeseen way")
    async with served(path):
        assert b"HTTP/1.1 500" in await exchange(path, b"GET /nothing HTTP/1.1\r\nHost: m\r\n\r\n")


def test_a_body_within_bounds_is_taken() -> None:
    assert MAX_REQUEST_BYTES >= 256 << 10
