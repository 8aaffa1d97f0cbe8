"""Asking other peers: the real upload server, and parents that misbehave to the byte."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import blake3
import pytest
import trio
import trio.testing

from cafs.core.swarm.chunk_request import ChunkWish
from cafs.core.swarm.ids import task_id
from cafs.core.swarm.layout import Layout
from cafs.core.swarm.messages import FailReason
from cafs.core.swarm.news import PIECES_IN_LINE
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.http11.server import serve_http
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.parent_client import ParentClient, ParentError
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_files import NewPiece
from cafs.p2p.task_store import open_task_store
from cafs.p2p.upload_server import LIMITS, UploadServer
from cafs.p2p.uploads import Uploads
from tests.support.scripted_server import ScriptedServer, serve_script

MIB = 1 << 20
URL = "http://origin.example/file"
TASK = task_id(URL)
PIECES = [bytes([n]) * MIB for n in range(2)] + [b"the end"]
DIGESTS = [blake3.blake3(piece).digest() for piece in PIECES]
META = TaskMeta(Layout(2 * MIB + 7, MIB), (("etag", '"1"'),))
HEAD = b"HTTP/1.1 200 OK\r\nX-Cafs-Digest: " + DIGESTS[2].hex().encode() + b"\r\n"


class NoChunks:
    """Gives none."""

    async def serve(self, wish: ChunkWish) -> list[bytes | memoryview | None]:
        return [None] * len(wish.refs)


@pytest.fixture
async def client() -> AsyncIterator[ParentClient]:
    made = ParentClient()
    yield made
    made.close()


@asynccontextmanager
async def parent(directory: Path, limits: PeerLimits | None = None) -> AsyncIterator[tuple[StoredTask, str]]:
    """An upload server whose task has no pieces yet."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with open_task_store(directory / "tasks", 64 * MIB) as store, trio.open_nursery() as nursery:
            task = await store.take(TaskSpec(task_id=TASK, url=URL))
            task.set_meta(META)
            server = UploadServer(store, Uploads(LiveLimits(limits or PeerLimits())), NoChunks())
            nursery.start_soon(serve_http, listener, server.handle, LIMITS)
            yield task, "{}:{}".format(*listener.getsockname())
            nursery.cancel_scope.cancel()


async def put(task: StoredTask, *numbers: int) -> None:
    assert await task.put_pieces([NewPiece(n, PIECES[n]) for n in numbers]) == [None] * len(numbers)


async def test_pieces_and_what_there_is_of_them(client: ParentClient, tmp_path: Path) -> None:
    async with parent(tmp_path) as (task, address):
        await put(task, 0, 2)
        assert await client.fetch_piece(address, TASK, 2, 7, bring=False) == (PIECES[2], DIGESTS[2])
        assert await client.fetch_piece(address, TASK, 0, MIB, bring=False) == (PIECES[0], DIGESTS[0])
        meta = await client.fetch_meta(address, TASK)
        assert meta == META
        with pytest.raises(ParentError) as lied:
            await client.fetch_piece(address, TASK, 1, MIB, bring=False)
        assert lied.value.reason is FailReason.GONE


async def test_announcements_until_all_is_there(client: ParentClient, tmp_path: Path) -> None:
    heard: dict[int, bytes] = {}
    async with parent(tmp_path) as (task, address):
        await put(task, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.follow, address, TASK, lambda news: heard.update(news.pieces))
            await put(task, 0)
            await put(task, 2)
    assert heard == dict(enumerate(DIGESTS))


async def test_a_busy_parent_says_when_to_come_again(client: ParentClient, tmp_path: Path) -> None:
    async with parent(tmp_path, PeerLimits(concurrent_uploads=0)) as (task, address):
        await put(task, 2)
        with pytest.raises(ParentError) as busy:
            await client.fetch_piece(address, TASK, 2, 7, bring=False)
    assert busy.value.reason is FailReason.REFUSED
    assert busy.value.retry_after_s == 1.0


async def failure(client: ParentClient, answer: bytes, *, ends: bool = True) -> FailReason:
    """How the fetch of a piece of 7 bytes ends when this is the answer."""

    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(answer)
        if not ends:
            await server.read_request(stream)

    async with serve_script(say) as server:
        with pytest.raises(ParentError) as error:
            await client.fetch_piece(server.host, TASK, 2, 7, bring=False)
    return error.value.reason


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HEAD + b"Content-Length: 7\r\n\r\nthe", FailReason.GONE),
        (HEAD + b"Content-Length: 8\r\n\r\nthe end!", FailReason.CORRUPT),
        (HEAD + b"Content-Length: 7\r\n\r\nthe end and more", FailReason.CORRUPT),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n7\r\nthe end\r\n0\r\n\r\n", FailReason.CORRUPT),
        (HEAD + b"\r\nthe end", FailReason.CORRUPT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nthe end", FailReason.CORRUPT),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 99_999, FailReason.CORRUPT),
        (b"SSH-2.0-OpenSSH\r\n\r\n", FailReason.CORRUPT),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", FailReason.GONE),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n", FailReason.GONE),
        (b"", FailReason.GONE),
        (HEAD, FailReason.GONE),
    ],
)
async def test_nonsense_is_one_parents_failure(
    client: ParentClient, answer: bytes, reason: FailReason
) -> None:
    assert await failure(client, answer) is reason


async def test_nobody_listens(client: ParentClient) -> None:
    for address in ("127.0.0.1:1", "nonsense", "127.0.0.1:99999"):
        with pytest.raises(ParentError):
            await client.fetch_piece(address, TASK, 2, 7, bring=False)


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + b"Content-Length: 7\r\n\r\nthe"])
async def test_silence_has_an_end(
    client: ParentClient, answer: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    assert await failure(client, answer, ends=False) is FailReason.SLOW


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"[]",
        b'{"pieces": 1}',
        b'{"pieces": [[1]]}',
        b'{"pieces": [[-1, "' + b"00" * 32 + b'"]]}',
        b'{"pieces": [[99999999, "' + b"00" * 32 + b'"]]}',
        b'{"pieces": [[true, "' + b"00" * 32 + b'"]]}',
        b'{"pieces": [[1, "00"]]}',
        b'{"pieces": [], "coming": 1}',
        b'{"pieces": [], "coming": [99999999]}',
        b'{"pieces": [], "coming": [' + b"1," * PIECES_IN_LINE + b"1]}",
        b"[" * 100_000,
        b'{"pieces": [], "more": [' + b"[]," * 10_000 + b"[]]}",
        b" " * (1 << 20),
    ],
)
async def test_announcements_that_are_none(client: ParentClient, line: bytes) -> None:
    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + line + b"\n")

    async with serve_script(say) as server:
        with pytest.raises(ParentError) as error:
            await client.follow(server.host, TASK, lambda pieces: None)
    assert error.value.reason in {FailReason.CORRUPT, FailReason.GONE}
    if line.startswith(b"{"):
        assert error.value.reason is FailReason.CORRUPT


@pytest.mark.parametrize(
    "change",
    [
        {"piece_bytes": 5},
        {"content_bytes": -7},
        {"content_bytes": 1 << 60},
        {"headers": [[1, 2]]},
        {"headers": [["etag"]]},
        {"headers": ["ab"]},
        {"more": [0] * 400_000},
    ],
)
async def test_metadata_that_cannot_be(client: ParentClient, change: dict[str, object]) -> None:
    good: dict[str, object] = {"content_bytes": 7, "piece_bytes": MIB, "have": ""}
    body = json.dumps(good | change).encode()

    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while await server.read_request(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with serve_script(say) as server:
        with pytest.raises(ParentError) as error:
            await client.fetch_meta(server.host, TASK)
    assert error.value.reason is FailReason.CORRUPT
    assert ("too much" in str(error.value)) is ("more" in change)


async def test_the_origins_headers_come_along(client: ParentClient) -> None:
    headers = [["ETag", "x"], ["etag", "x" * 2000], *([f"x-{n}", "y"] for n in range(1000))]
    body = json.dumps({"content_bytes": None, "piece_bytes": MIB, "headers": headers}).encode()

    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with serve_script(say) as server:
        meta = await client.fetch_meta(server.host, TASK)
    assert meta == TaskMeta(Layout(None, MIB), (("etag", "x"),))


async def test_a_connection_is_kept_and_replaced_when_the_parent_closed_it(client: ParentClient) -> None:
    async def say(server: ScriptedServer, stream: trio.SocketStream) -> None:
        for _ in range(2):
            await server.read_request(stream)
            await stream.send_all(HEAD + b"Content-Length: 7\r\n\r\nthe end")

    async with serve_script(say) as server:
        for _ in range(4):
            assert (await client.fetch_piece(server.host, TASK, 2, 7, bring=False))[0] == PIECES[2]
        assert server.connections == 2
