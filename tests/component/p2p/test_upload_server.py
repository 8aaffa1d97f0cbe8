"""The upload server over real sockets: what it gives, to how many, how fast, and what it refuses."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import blake3
import pytest
import trio
import trio.testing

from cafs.core.chunk_ref import ChunkRef, Codec
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import ChunkWish, cut_answer
from cafs.core.swarm.ids import task_id
from cafs.core.swarm.layout import Layout
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.http11.server import serve_http
from cafs.p2p import uploads
from cafs.p2p.live_limits import LiveLimits
from cafs.p2p.stored_task import StoredTask
from cafs.p2p.task_files import NewPiece
from cafs.p2p.task_store import TaskStore, open_task_store
from cafs.p2p.upload_server import LIMITS, UploadServer
from cafs.p2p.uploads import Pace, Uploads
from tests.support.http import Answered, ask, open_to, read_answer, read_head
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S

MIB = 1 << 20
CONTENT = b"".join(bytes([n]) * MIB for n in range(3)) + b"the end"
URL = "http://origin.example/file"
TASK = task_id(URL)


class Serving:
    """A peer's upload server with one task."""

    def __init__(self, store: TaskStore, limits: LiveLimits, pace: Pace | None) -> None:
        self.store = store
        self.limits = limits
        self.uploads = Uploads(limits, pace)
        self.chunks = FakeChunks()
        self.port = 0
        self.brought: list[int] = []

    async def bring(self, _task: StoredTask, number: int) -> None:
        """As the engine does; there is no piece 2 at the source."""
        self.brought.append(number)
        if number != 2:
            await self.put(number)

    async def take(self) -> StoredTask:
        task = await self.store.take(TaskSpec(task_id=TASK, url=URL))
        if task.meta is None:
            task.set_meta(TaskMeta(Layout(len(CONTENT), MIB), (("etag", "x"),)))
        return task

    async def put(self, *numbers: int) -> StoredTask:
        task = await self.take()
        assert await task.put_pieces([NewPiece(n, piece(n)) for n in numbers]) == [None] * len(numbers)
        return task


class FakeChunks:
    def __init__(self) -> None:
        self.go = trio.Event()
        self.asked = trio.Event()
        self.go.set()

    async def serve(self, wish: ChunkWish) -> list[bytes | memoryview | None]:
        self.asked.set()
        await self.go.wait()
        return [bytes([n]) * ref.frame_bytes if n % 2 else None for n, ref in enumerate(wish.refs)]


def piece(number: int) -> bytes:
    return CONTENT[number * MIB : (number + 1) * MIB]


@asynccontextmanager
async def serving(
    path: Path, limits: PeerLimits | None = None, pace: Pace | None = None
) -> AsyncIterator[Serving]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with open_task_store(path / "tasks", 1 << 30) as store, trio.open_nursery() as nursery:
            peer = Serving(store, LiveLimits(limits or PeerLimits()), pace)
            peer.port = listener.getsockname()[1]
            server = UploadServer(store, peer.uploads, peer.chunks, peer)
            nursery.start_soon(serve_http, listener, server.handle, LIMITS)
            yield peer
            nursery.cancel_scope.cancel()


async def get(peer: Serving, path: str) -> Answered:
    return await ask(peer.port, "GET", path)


async def test_tasks_and_whole_pieces_are_given(tmp_path: Path) -> None:
    async with serving(tmp_path) as peer:
        await peer.put(0, 3)
        described = json.loads((await get(peer, f"/v1/tasks/{TASK}")).body)
        assert described == {
            "content_bytes": len(CONTENT),
            "piece_bytes": MIB,
            "digest": None,
            "complete": False,
            "have": base64.b64encode(b"\x09").decode(),
            "headers": [["etag", "x"]],
        }
        for number in (0, 3):
            answer = await get(peer, f"/v1/tasks/{TASK}/pieces/{number}")
            digest = blake3.blake3(piece(number)).hexdigest()
            assert (answer.status, answer.headers["x-cafs-digest"]) == (200, digest)
            assert answer.body == piece(number)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v1/tasks/{TASK}/pieces/1", 404),
        (f"/v1/tasks/{TASK}/pieces/99999999", 404),
        (f"/v1/tasks/{TASK}/pieces/999999999999999999999", 404),
        (f"/v1/tasks/{TASK}/pieces/-1", 404),
        (f"/v1/tasks/{TASK}/pieces/0/more", 404),
        (f"/v1/tasks/{'0' * 64}", 404),
        ("/v1/tasks/..%2f..%2fetc", 400),
        ("/v1/tasks/", 400),
        ("/", 404),
        ("/v1/chunks", 405),
    ],
)
async def test_what_is_not_here_is_refused(tmp_path: Path, path: str, status: int) -> None:
    async with serving(tmp_path) as peer:
        await peer.put(0)
        answer = await get(peer, path)
        assert answer.status == status
        assert json.loads(answer.body)["reason"] in {"unknown", "bad_request"}


async def test_a_piece_is_brought_for_who_asks_its_owner(tmp_path: Path) -> None:
    async with serving(tmp_path) as peer:
        await peer.put(0)
        assert (await get(peer, f"/v1/tasks/{TASK}/pieces/1")).status == 404
        assert (await get(peer, f"/v1/tasks/{TASK}/pieces/1?bring=1")).body == piece(1)
        assert (await get(peer, f"/v1/tasks/{TASK}/pieces/2?bring=1")).status == 404
        assert peer.brought == [1, 2]


async def test_a_piece_that_rotted_is_not_given(tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    expected_logs.expect("rotted")
    async with serving(tmp_path) as peer:
        await peer.put(0, 1)
        with (tmp_path / "tasks" / TASK / "data").open("r+b") as data:
            data.write(b"wrong")
        assert (await get(peer, f"/v1/tasks/{TASK}/pieces/0")).status == 404
        assert (await get(peer, f"/v1/tasks/{TASK}/pieces/1")).body == piece(1)


async def test_followers_hear_of_pieces_as_they_come(tmp_path: Path) -> None:
    async with serving(tmp_path) as peer:
        await peer.put(2)
        async with open_to(peer.port) as stream:
            await stream.send_all(f"GET /v1/tasks/{TASK}/have HTTP/1.1\r\nHost: p\r\n\r\n".encode())
            status, headers, rest = await read_head(stream)
            assert (status, headers["transfer-encoding"]) == (200, "chunked")
            while b"]]" not in rest:
                rest += await stream.receive_some()
            assert blake3.blake3(piece(2)).hexdigest().encode() in rest
            await peer.put(0, 1)
            await peer.put(3)
            while not rest.endswith(b"0\r\n\r\n"):
                rest += await stream.receive_some()
            lines = [json.loads(line) for line in rest.splitlines() if line.startswith(b"{")]
            assert sorted(number for line in lines for number, _ in line["pieces"]) == [0, 1, 2, 3]


async def test_a_follower_of_a_forgotten_task_hears_the_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as peer:
        await peer.put(1)
        async with open_to(peer.port) as stream:
            await stream.send_all(f"GET /v1/tasks/{TASK}/have HTTP/1.1\r\nHost: p\r\n\r\n".encode())
            _, _, rest = await read_head(stream)
            await peer.store.delete(TASK)
            with trio.fail_after(PATIENCE_S):
                while not rest.endswith(b"0\r\n\r\n"):
                    rest += await stream.receive_some()


async def test_too_many_are_told_to_come_again(tmp_path: Path) -> None:
    limits = PeerLimits(concurrent_uploads=2, uploads_per_client=1)
    wish = ChunkWish(BlobRef(sha256_digest(b""), 100), "r.example/app", (_ref(0), _ref(1)), False)
    async with serving(tmp_path, limits) as peer, trio.open_nursery() as nursery:
        await peer.put(0)
        peer.chunks.go = trio.Event()
        answers: list[Answered] = []

        async def wait_for_chunks() -> None:
            answers.append(await ask(peer.port, "POST", "/v1/chunks", wish.encode()))

        nursery.start_soon(wait_for_chunks)
        await peer.chunks.asked.wait()
        busy = await get(peer, f"/v1/tasks/{TASK}/pieces/0")
        assert (busy.status, busy.headers["retry-after"]) == (503, "1")
        assert (await get(peer, f"/v1/tasks/{TASK}")).status == 200  # words are not counted
        peer.limits.change(PeerLimits(concurrent_uploads=2, uploads_per_client=2))
        assert (await get(peer, f"/v1/tasks/{TASK}/pieces/0")).status == 200
        peer.chunks.go.set()
        while not answers:
            await trio.testing.wait_all_tasks_blocked(0.01)
        cut = cut_answer(answers[0].headers["x-cafs-have"], answers[0].body, wish.refs)
        assert cut[0] is None
        assert bytes(cut[1] or b"") == bytes([1]) * 10
        assert (peer.uploads.active, peer.uploads.refused) == (0, 1)


async def test_a_client_that_leaves_frees_its_place(tmp_path: Path) -> None:
    async with serving(tmp_path, PeerLimits(concurrent_uploads=1)) as peer:
        peer.chunks.go = trio.Event()
        wish = ChunkWish(BlobRef(sha256_digest(b""), 100), "r.example/app", (_ref(0),), False).encode()
        stream = await trio.open_tcp_stream("127.0.0.1", peer.port)
        await stream.send_all(
            b"POST /v1/chunks HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % len(wish) + wish
        )
        await peer.chunks.asked.wait()
        assert peer.uploads.active == 1
        await stream.aclose()
        with trio.fail_after(PATIENCE_S):
            while peer.uploads.active:
                await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_client_that_takes_its_answer_too_slowly_frees_its_place(tmp_path: Path) -> None:
    """It takes something all the time, and no frame of many takes it long."""
    pace = Pace(grace_s=0.5, least_bytes_per_s=64 * MIB)
    async with serving(tmp_path, PeerLimits(concurrent_uploads=1), pace) as peer:
        await peer.put(0)
        async with asking_for_much(peer) as stream:
            with trio.fail_after(PATIENCE_S):
                _, headers, rest = await read_head(stream)
                received = len(rest)
                with suppress(trio.BrokenResourceError):  # reset, with what is on its way
                    while data := await stream.receive_some(256):
                        received += len(data)
                        await trio.sleep(0.02)
            assert received < int(headers["content-length"])
            with trio.fail_after(PATIENCE_S):
                while peer.uploads.active:
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await get(peer, f"/v1/tasks/{TASK}/pieces/0")).body == piece(0)


async def test_nobody_has_all_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "ROOM_S", 0.1)
    async with serving(tmp_path) as peer, AsyncExitStack() as idle:
        await peer.put(0)
        for _ in range(2):
            stream = await idle.enter_async_context(asking_for_much(peer, "127.0.0.2"))
            assert (await read_head(stream))[0] == 200
        third = await idle.enter_async_context(asking_for_much(peer, "127.0.0.2"))
        assert (await read_head(third))[0] == 503
        assert (await get(peer, f"/v1/tasks/{TASK}/pieces/0")).body == piece(0)


@asynccontextmanager
async def asking_for_much(peer: Serving, address: str = "127.0.0.1") -> AsyncIterator[trio.SocketStream]:
    """Half of 16 MiB in 128 frames, to a client that has no room for them."""
    kib = 128 << 10
    refs = tuple(ChunkRef(bytes([n]) * 32, kib, 0, n * kib, kib, Codec.RAW) for n in range(128))
    wish = ChunkWish(BlobRef(sha256_digest(b""), 16 * MIB), "r.example/app", refs, False).encode()
    with trio.socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await plain.bind((address, 0))
        await plain.connect(("127.0.0.1", peer.port))
        stream = trio.SocketStream(plain)
        head = b"POST /v1/chunks HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n" % len(wish)
        await stream.send_all(head + wish)
        yield stream


async def test_the_bandwidth_is_kept_and_changed_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path, PeerLimits(upload_bytes_per_s=8 * MIB)) as peer:
        await peer.put(0, 1)
        began = trio.current_time()
        for number in (0, 1):
            assert (await get(peer, f"/v1/tasks/{TASK}/pieces/{number}")).body == piece(number)
        assert trio.current_time() - began >= 2 / 8 - 0.1  # less one burst
        peer.limits.change(PeerLimits())
        assert peer.limits.upload.unlimited
        assert peer.limits.upload.total_bytes == 2 * MIB


async def test_a_body_that_is_no_wish(tmp_path: Path) -> None:
    async with serving(tmp_path) as peer:
        assert (await ask(peer.port, "POST", "/v1/chunks", b"{}")).status == 400
        assert (await ask(peer.port, "POST", "/v1/chunks", bytes(300 << 10))).status == 413


async def test_read_answer_needs_the_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as peer, open_to(peer.port) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: p\r\n\r\n")
        assert (await read_answer(stream)).status == 404


def _ref(number: int) -> ChunkRef:
    return ChunkRef(bytes([number]) * 32, 10, 0, number * 10, 10, Codec.RAW)
