"""Conversations with somebody who nearly speaks HTTP: servers go on, clients blame the other side.

Every warning is a failure of the test: so nothing here may be unforeseen.
"""

from __future__ import annotations

import hashlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import blake3
import h11
import trio
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.chunk_ref import ChunkRef, Codec
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish
from cafs.core.swarm.ids import HostId, task_id
from cafs.core.swarm.layout import Layout
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.swarm.task import REPLAYED, TaskMeta, TaskSpec
from cafs.errors import CafsError
from cafs.fetch.local_peer import LocalPeer
from cafs.http11.server import serve_http
from cafs.oci.registry.exchange import Patience
from cafs.p2p.chunk_peers import ChunkPeers
from cafs.p2p.content import Wish
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.membership import ChunkMember
from cafs.p2p.node_client import NodeDistributor
from cafs.p2p.parent_client import ParentClient, ParentError
from cafs.p2p.source import Guard, Limits, Sources, Unpaced
from cafs.p2p.task_files import NewPiece
from cafs.p2p.task_store import open_task_store
from cafs.p2p.upload_server import LIMITS, UploadServer
from cafs.p2p.uploads import Uploads
from cafs.proxy.origin import Patience as ProxyPatience
from tests.support.fuzzing import fuzzed, mutated
from tests.support.logs import ExpectedLogs
from tests.support.proxying import Origin, Told, read_all, run_proxy, serve_origin
from tests.support.scripted_server import ScriptedServer, serve_script

MIB = 1 << 20
URL = "http://origin.example/file"
TASK = task_id(URL)
LAST = b"the end"
DIGEST = blake3.blake3(LAST).digest()
REFS = tuple(ChunkRef(bytes([n]) * 32, 100, 0, 50 * n, 50, Codec.ZSTD) for n in range(3))
WISH = ChunkWish(BlobRef(sha256_digest(b"blob"), 1 << 20), "example.org/app", REFS, True, 0)
PATIENCE_S = 60


def request(method: str, target: str, body: bytes = b"", *more: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def answer(body: bytes, *more: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def check_answers(received: bytes) -> None:
    """What a server said is HTTP, up to where it broke off."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    rest = received
    while rest:
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
        connection.send(h11.EndOfMessage())
        connection.receive_data(rest)
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                return
        rest = connection.trailing_data[0]
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)


class NoChunks:
    async def serve(self, wish: ChunkWish) -> list[bytes | memoryview | None]:
        await trio.lowlevel.checkpoint()
        return [None] * len(wish.refs)


@asynccontextmanager
async def upload_server(folder: Path) -> AsyncIterator[Path]:
    """One task, of which the last piece is here. On a unix socket: there, a client may end its requests."""
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with open_task_store(folder / "tasks", 64 * MIB) as store, trio.open_nursery() as nursery:
            task = await store.take(TaskSpec(task_id=TASK, url=URL))
            task.set_meta(TaskMeta(Layout(2 * MIB + len(LAST), MIB), (("etag", '"1"'),)))
            assert await task.put_pieces([NewPiece(2, LAST)]) == [None]
            server = UploadServer(store, Uploads(LiveLimits(PeerLimits())), NoChunks())
            nursery.start_soon(serve_http, listener, server.handle, LIMITS)
            yield path
            nursery.cancel_scope.cancel()


async def say(path: Path, data: bytes) -> bytes:
    """Send this and no more, and take all that comes."""
    async with await trio.open_unix_socket(str(path)) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            await stream.send_eof()
        return await read_all(stream)


UPLOADS = [
    request("GET", f"/v1/tasks/{TASK}"),
    request("GET", f"/v1/tasks/{TASK}/pieces/2?bring=1"),
    request("GET", f"/v1/tasks/{TASK}/pieces/0", b"", "Connection: close"),
    request("POST", "/v1/chunks", WISH.encode()),
    f"GET /v1/tasks/{TASK}/pieces/2 HTTP/1.0\r\n\r\n".encode(),
    b"POST /v1/chunks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(WISH.encode()), WISH.encode()),
    request("HEAD", f"/v1/tasks/{TASK}/pieces/2") + request("GET", "/v1/tasks/x"),
]


@fuzzed(25)
@given(st.lists(mutated(UPLOADS), min_size=1, max_size=6))
def test_whoever_asks_the_upload_server(requests: list[bytes]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="") as folder:
            async with upload_server(Path(folder)) as path:
                for data in requests:
                    received = await say(path, data)
                    if b"HEAD" not in data:  # whose answers have no bodies
                        check_answers(received)
                    assert b"HTTP/1.1 500" not in received
                assert (await say(path, UPLOADS[1])).endswith(LAST)

    bounded(run)


def bounded(run: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        with trio.fail_after(PATIENCE_S):
            await run()

    trio.run(within)


def answering(data: bytes) -> Callable[[ScriptedServer, trio.SocketStream], Awaitable[None]]:
    """Says this to every request, and closes."""

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await stream.receive_some(1 << 16)
        await stream.send_all(data)
        with suppress(OSError):  # whoever asked may have left
            stream.socket.shutdown(socket.SHUT_WR)
        while await stream.receive_some(1 << 16):
            pass

    return script


META = json.dumps(
    {
        "content_bytes": 2 * MIB + 7, "piece_bytes": MIB, "digest": None, "complete": False,
        "have": "BA==", "headers": [["etag", '"1"']],
    }
).encode()  # fmt: skip
NEWS = json.dumps({"pieces": [[2, DIGEST.hex()], [0, DIGEST.hex()]]}).encode() + b"\n\n"
FROM_PARENTS = [
    answer(LAST, f"X-Cafs-Digest: {DIGEST.hex()}"),
    answer(META),
    answer(NEWS),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(NEWS), NEWS),
    answer(b"{}", "Retry-After: 1", status="503 Busy"),
    answer(b"", status="404 Not Found"),
]


@fuzzed(30)
@given(mutated(FROM_PARENTS))
def test_what_parents_answer(data: bytes) -> None:
    async def run() -> None:
        client = ParentClient()
        async with serve_script(answering(data)) as server:
            with suppress(ParentError):
                piece, digest = await client.fetch_piece(server.host, TASK, 2, 7, bring=False)
                assert (len(piece), len(digest)) == (7, 32)
            with suppress(ParentError):
                meta = await client.fetch_meta(server.host, TASK)
                assert set(dict(meta.headers)) <= REPLAYED
            with suppress(ParentError):
                await client.follow(server.host, TASK, lambda pieces: None)
        client.close()

    bounded(run)


CHUNKS = [
    answer(bytes(150), "X-Cafs-Have: Bw==", "X-Cafs-Store: %2Fx"),
    answer(bytes(50), "X-Cafs-Have: AQ=="),
]


@fuzzed(30)
@given(mutated([*CHUNKS, *FROM_PARENTS]))
def test_what_hosts_answer_to_wishes_for_chunks(data: bytes) -> None:
    async def run() -> None:
        peers = ChunkPeers(None, LiveLimits(PeerLimits()).download)
        async with serve_script(answering(data)) as server:
            with suppress(CafsError):
                frames = await peers.ask(ChunkMember(HostId("a" * 32), server.host), WISH, 5.0)
                assert [len(frame) for frame in frames if frame is not None] in ([], [50], [50, 50], [50] * 3)
        peers.close()

    bounded(run)


PART = answer(
    b"cde", "Content-Range: bytes 2-4/9", 'ETag: "a"', "Last-Modified: x", status="206 Partial Content"
)
FROM_ORIGINS = [
    PART,
    answer(b"abcdefghi", 'ETag: "a"', "Accept-Ranges: bytes"),
    answer(b"no", "Retry-After: 3", status="429 Later"),
    answer(b"", "Location: /elsewhere", status="302 Found"),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabcdefghi\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nabcdefghi",
]


@fuzzed(40)
@given(mutated(FROM_ORIGINS), st.booleans())
def test_what_origins_answer(data: bytes, guarded: bool) -> None:
    """Of the content comes what the origin said, no more, and where it said."""

    async def run() -> None:
        sources = Sources(Patience(connect_s=5, stall_s=5, room_s=5), Limits(), Unpaced())
        guard = Guard('"a"', None, 9) if guarded else None
        async with serve_script(answering(data)) as server:
            with suppress(CafsError):
                async with sources.open(f"http://{server.host}/f", (), 2, 4, guard) as told:
                    body = b""
                    while more := await told.receive():
                        body += more
                    if told.last_byte is not None:
                        assert len(body) == told.last_byte + 1 - told.first_byte
                    assert told.first_byte in (0, 2)
        await sources.aclose()

    bounded(run)


FROM_PEERS = [
    answer(b"abcdefghi", 'ETag: "a"'),
    answer(b"cde", "Content-Range: bytes 2-4/9", status="206 Partial Content"),
    answer(b"no", "X-Cafs-Origin-Status: 404", status="502 Bad Gateway"),
    answer(b'{"error": "no", "reason": "storage"}', status="507 X"),
    *CHUNKS,
]


@fuzzed(30)
@given(mutated(FROM_PEERS))
def test_what_the_nodes_peer_answers(data: bytes) -> None:
    """Programs of the node do not fall with it."""

    async def run() -> None:
        with tempfile.TemporaryDirectory(prefix="") as folder:
            path = Path(folder) / "s"
            async with trio.open_nursery() as nursery:
                with socket.socket(socket.AF_UNIX) as listener:
                    listener.bind(str(path))
                    listener.listen()
                    listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
                    script = answering(data)

                    async def act(stream: trio.SocketStream) -> None:
                        with suppress(trio.BrokenResourceError):
                            await script(None, stream)  # type: ignore[arg-type]  # it asks for no origin

                    await nursery.start(trio.serve_listeners, act, [listening])
                    with suppress(CafsError):
                        async with await NodeDistributor(path).open(Wish(url=URL)) as content:
                            async for _ in content:
                                pass
                    peer = LocalPeer(path, None)
                    brought = await peer.chunks(WISH)
                    assert len(brought.frames) == len(brought.stored) == len(WISH.refs)
                    peer.close()
                    nursery.cancel_scope.cancel()

    bounded(run)


BODY = b"content of a page" * 50
DIGEST_TEXT = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


def to_proxy(host: str) -> list[bytes]:
    return [
        f"GET http://{host}/f HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(),
        f"GET http://{host}/f HTTP/1.1\r\nHost: x\r\nRange: bytes=1-5\r\nConnection: close\r\n\r\n".encode(),
        f"HEAD http://{host}/f HTTP/1.0\r\n\r\n".encode(),
        f"POST http://{host}/f HTTP/1.1\r\nHost: x\r\nContent-Length: 35\r\n\r\n"
        "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"POST http://{host}/f HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        "23\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n\r\n0\r\n\r\n".encode(),
        f"GET /v2/a/blobs/{DIGEST_TEXT}?ns={host} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"CONNECT {host} HTTP/1.1\r\nHost: x\r\n\r\nGET /f HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        f"GET http://{host}/f HTTP/1.1\r\nHost: x\r\nX-Cafs-Digest: {DIGEST_TEXT}\r\n\r\n".encode(),
    ]


def fill(origin: Origin) -> None:
    for path in ("/f", f"/v2/a/blobs/{DIGEST_TEXT}"):
        origin.pages[path] = lambda _: Told(200, {}, BODY)


PLACE = "127.0.0.1:65500"
"""Stands for the origin in what is mutated: it has another port every time."""


@fuzzed(20)
@given(requests=st.lists(mutated(to_proxy(PLACE)), min_size=1, max_size=5))
def test_whoever_asks_the_proxy(requests: list[bytes], expected_logs: ExpectedLogs) -> None:
    """Who asks nearly rightly is answered or refused; the origin hears of nothing that was not answered."""
    expected_logs.allow("an answer was broken off")

    async def run() -> None:
        async with serve_origin() as origin, run_proxy(allow=(origin.host,)) as proxy:
            fill(origin)
            for data in requests:
                before = len(origin.asked)
                async with await proxy.connect() as stream:
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(data.replace(PLACE.encode(), origin.host.encode()))
                        await stream.send_eof()
                    received = await read_all(stream)
                if b"CONNECT" not in data:
                    assert len(origin.asked) - before <= received.count(b"HTTP/1.1 ")
            told = await proxy.get(f"{origin.url}/f")
            assert (told.status, told.body) == (200, BODY)

    bounded(run)


@fuzzed(30)
@given(data=mutated([*FROM_ORIGINS, answer(BODY)]), whole=st.booleans())
def test_what_origins_answer_to_the_proxy(data: bytes, whole: bool, expected_logs: ExpectedLogs) -> None:
    """Clients get an answer of HTTP or an end; of content with a digest they get all, or too little."""
    expected_logs.allow("an answer was broken off")

    async def run() -> None:
        async with (
            serve_script(answering(data)) as server,
            run_proxy(allow=(server.host,), patience=ProxyPatience(5, 5, 5)) as proxy,
        ):
            path = f"/v2/a/blobs/{DIGEST_TEXT}" if whole else "/f"
            told = await proxy.get(f"http://{server.host}{path}")
            if whole and told.status == 200 and told.whole:
                assert told.body == BODY

    bounded(run)


def test_empty_lines_without_end() -> None:
    """Some may precede a request; so many are no request, and are not kept."""

    async def run() -> None:
        async with run_proxy() as proxy, await proxy.connect() as stream:
            with suppress(trio.BrokenResourceError):
                for _ in range(64):
                    await stream.send_all(b"\r\n" * 4096)
            assert (await read_all(stream)).startswith(b"HTTP/1.1 431 ")
            async with await proxy.connect() as other:
                await other.send_all(b"\r\n" * 9 + b"GET /none HTTP/1.1\r\nHost: h\r\n\r\n")
                assert bytes(await other.receive_some(99)).startswith(b"HTTP/1.1 404 ")

    bounded(run)
