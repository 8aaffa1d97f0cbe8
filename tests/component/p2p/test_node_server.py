"""The node socket over real sockets, and the chunk service that asks it before the registry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cafs.core.chunk import Chunk
from cafs.core.digest import sha256_digest
from cafs.core.swarm.chunk_request import LEAST_URGENT, ChunkWish
from cafs.core.swarm.ids import task_id
from cafs.core.swarm.layout import Layout
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.errors import DeadlineError, IntegrityError
from cafs.fetch import local_peer
from cafs.fetch.limits import FetchLimits
from cafs.fetch.local_peer import LocalPeer
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.service import ChunkService
from cafs.http11.messages import Handler, Reply, Request, refusal
from cafs.p2p import chunk_exchange
from cafs.p2p.content import Content, OriginError, Wish
from cafs.p2p.node_client import NodeDistributor
from cafs.p2p.task_files import NewPiece
from cafs.store.chunk_store import ChunkStore
from tests.support.fetching import MemoryLayer, ScriptedSource, joined
from tests.support.grid import until
from tests.support.logs import ExpectedLogs
from tests.support.node_sockets import FakeContent, from_registry, listening, nodes

MIB = 1 << 20
LIMITS_OF_SERVICE = FetchLimits(rider_bytes=0, readahead_bytes=0)


@pytest.fixture(scope="module")
def layer() -> MemoryLayer:
    return MemoryLayer([64 << 10] * 24)


class CountingStore:
    """A store that counts what it is given; everything else is the real one's."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.put_digests: list[bytes] = []
        self.get = store.get
        self.has = store.has
        self.flush = store.flush

    def put(self, chunks: list[Chunk]) -> None:
        self.put_digests += [chunk.digest for chunk in chunks]
        self._store.put(chunks)


async def read_through(
    layer: MemoryLayer, source: ScriptedSource, peer: LocalPeer | None, store: CountingStore | None = None
) -> bytes:
    async with ChunkService(store, LIMITS_OF_SERVICE, peer=peer) as service:
        reader = service.add_layer(layer, [source], layer.diff_id)
        return joined(await reader.read(0, layer.virtual_bytes))


async def test_two_nodes_read_an_image_and_the_registry_sees_each_chunk_once(
    short_tmp_path: Path, layer: MemoryLayer
) -> None:
    registry, straight = from_registry(layer), from_registry(layer)
    async with nodes(short_tmp_path, registry, 2) as (first, second):
        for node in (first, second):
            store = CountingStore(node.host.store)
            peer = LocalPeer(node.path, node.host.directory / "store")
            assert await read_through(layer, straight, peer, store) == layer.image
            assert store.put_digests == []  # the peer keeps them in the same store
        assert straight.requests == []
        assert sum(length for _, length in registry.requests) == len(layer.blob)


async def test_chunks_are_stored_by_a_mount_with_another_store(
    short_tmp_path: Path, layer: MemoryLayer
) -> None:
    registry = from_registry(layer)
    async with nodes(short_tmp_path, registry, 1) as (node,):
        with ChunkStore.open(short_tmp_path / "own", 64 * MIB) as own:
            store = CountingStore(own)
            peer = LocalPeer(node.path, short_tmp_path / "own")
            assert await read_through(layer, from_registry(layer), peer, store) == layer.image
            assert set(store.put_digests) == {ref.digest for ref in layer.table.refs}


async def test_of_blocked_images_mounts_read_straight_and_the_peer_helps_with_others(
    short_tmp_path: Path, layer: MemoryLayer
) -> None:
    registry, straight = from_registry(layer), from_registry(layer)
    async with nodes(short_tmp_path, registry, 1) as (node,):
        node.host.account.blocked = True
        peer = LocalPeer(node.path, node.host.directory / "store")
        assert await read_through(layer, straight, peer, CountingStore(node.host.store)) == layer.image
        assert registry.requests == []
        node.host.account.blocked = False
        # It is not asked for the blocked blob for a while, and for any other one at once.
        wish = ChunkWish(layer.blobs[0], "registry.example/app", tuple(layer.table.refs), may_fetch=True)
        assert not any((await peer.chunks(wish)).frames)
        other = replace(wish, blob=layer.blobs[0]._replace(digest=sha256_digest(b"other")))
        assert all((await peer.chunks(other)).frames)
        peer.close()


async def test_what_nobody_waits_for_is_not_sent_to_who_shares_the_store(
    short_tmp_path: Path, layer: MemoryLayer
) -> None:
    refs = tuple(layer.table.refs)
    wish = ChunkWish(layer.blobs[0], "registry.example/app", refs, may_fetch=True, urgency=LEAST_URGENT)
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        shares = LocalPeer(node.path, node.host.directory / "store")
        brought = await shares.chunks(wish)
        assert (any(brought.frames), all(brought.stored)) == (False, True)
        await until(lambda: all(node.host.store.has([ref.digest for ref in refs])))
        brought = await shares.chunks(wish)  # from the store by now
        assert (any(brought.frames), all(brought.stored)) == (False, True)
        elsewhere = LocalPeer(node.path, short_tmp_path / "own")
        for sent in (await shares.chunks(replace(wish, urgency=0)), await elsewhere.chunks(wish)):
            assert [bytes(frame or b"") for frame in sent.frames] == layer.frames
            assert not any(sent.stored)
        shares.close()
        elsewhere.close()


async def test_a_fill_through_the_peer_ends_in_the_store_and_nothing_is_stored_twice(
    short_tmp_path: Path, layer: MemoryLayer
) -> None:
    straight, digests = from_registry(layer), [ref.digest for ref in layer.table.refs]
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        store = CountingStore(node.host.store)
        peer = LocalPeer(node.path, node.host.directory / "store")
        async with ChunkService(store, LIMITS_OF_SERVICE, peer=peer) as service:
            reader = service.add_layer(layer, [straight], layer.diff_id)
            service.start_prefetch(Prefetch.ALL)
            await until(lambda: service.stats().fetched_bytes == len(layer.blob))
            await until(lambda: all(node.host.store.has(digests)))
            assert joined(await reader.read(0, layer.virtual_bytes)) == layer.image
            assert service.stats().store_hits == len(digests)
        assert (store.put_digests, straight.requests) == ([], [])


async def test_no_peer_is_no_loss(short_tmp_path: Path, layer: MemoryLayer) -> None:
    straight = from_registry(layer)
    assert await read_through(layer, straight, LocalPeer(short_tmp_path / "none", None)) == layer.image
    assert sum(length for _, length in straight.requests) == len(layer.blob)


async def dies(_request: Request, _reply: Reply) -> None:
    raise trio.BrokenResourceError


async def refuses(_request: Request, reply: Reply) -> None:
    await reply.send(refusal(503, "not now", "overloaded"))


async def hangs(_request: Request, _reply: Reply) -> None:
    await trio.sleep_forever()


async def dies_in_the_middle(request: Request, reply: Reply) -> None:
    async with reply.stream(200, 1000) as send:
        await send(b"x" * 500)
        raise trio.BrokenResourceError


async def babbles(_request: Request, reply: Reply) -> None:
    async with reply.stream(200, None, headers=(("X-Cafs-Have", "////"),)) as send:
        await send(b"nonsense")


@pytest.mark.parametrize("handler", [dies, refuses, hangs, dies_in_the_middle, babbles])
async def test_a_peer_that_fails_costs_a_reader_nothing_but_a_moment(
    short_tmp_path: Path, layer: MemoryLayer, handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_peer, "PATIENCE_S", (0.2,) * 4)
    straight = from_registry(layer)
    path = short_tmp_path / "n"
    async with listening(path, handler):
        assert await read_through(layer, straight, LocalPeer(path, None)) == layer.image
    assert sum(length for _, length in straight.requests) == len(layer.blob)


async def test_a_peer_killed_while_it_is_asked(short_tmp_path: Path, layer: MemoryLayer) -> None:
    asked = trio.Event()

    async def never(_number: int, _right: bytes) -> bytes:
        asked.set()
        await trio.sleep_forever()
        raise AssertionError

    straight = from_registry(layer)
    async with nodes(short_tmp_path, ScriptedSource(layer.blob, never), 1) as (node,):
        images: list[bytes] = []

        async def read() -> None:
            images.append(await read_through(layer, straight, LocalPeer(node.path, None)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await asked.wait()
            node.scope.cancel()
    assert images == [layer.image]


async def test_a_peer_that_brings_part_is_completed_by_the_registry(
    short_tmp_path: Path, layer: MemoryLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_exchange, "WINDOW_BYTES", 256 << 10)

    async def only_the_first(number: int, right: bytes) -> bytes:
        if number:
            raise DeadlineError("away")
        return right

    straight = from_registry(layer)
    async with nodes(short_tmp_path, ScriptedSource(layer.blob, only_the_first), 1) as (node,):
        assert await read_through(layer, straight, LocalPeer(node.path, None)) == layer.image
    assert 0 < sum(length for _, length in straight.requests) < len(layer.blob)


async def test_a_download_streams_what_the_distributor_has(short_tmp_path: Path, layer: MemoryLayer) -> None:
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        wish = {"url": "http://o.example/f", "headers": [["Authorization", "secret"]], "range": [2, 5]}
        node.distributor.answer = lambda _: FakeContent(b"2345", 2, 10)
        answer = await node.ask("POST", "/v1/download", wish)
        assert (answer.status, answer.body) == (206, b"2345")
        assert answer.headers["content-range"] == "bytes 2-5/10"
        assert (answer.headers["etag"], answer.headers["content-type"]) == ('"1"', "text/plain")
        assert node.distributor.wishes[0].headers == (("Authorization", "secret"),)
        assert (node.distributor.wishes[0].first_byte, node.distributor.wishes[0].last_byte) == (2, 5)
        node.distributor.answer = lambda _: FakeContent(b"unknown length", 0, None)
        answer = await node.ask("POST", "/v1/download", {"url": "http://o.example/f"})
        assert (answer.status, answer.body) == (200, b"unknown length")
        assert answer.headers["transfer-encoding"] == "chunked"
        node.distributor.answer = lambda _: FakeContent(b"", 0, 0)
        async with await NodeDistributor(node.path).open(
            Wish(url="http://o.example/f", first_byte=0, last_byte=0)
        ) as content:
            assert (content.content_bytes, [piece async for piece in content]) == (0, [])


async def test_errors_before_the_first_byte_are_answers(short_tmp_path: Path, layer: MemoryLayer) -> None:
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):

        def no(_wish: Wish) -> Content:
            raise OriginError("gone", 410, (("x-why", "old"), ("content-type", "text/html")), b"<p>gone")

        node.distributor.answer = no
        answer = await node.ask("POST", "/v1/download", {"url": "http://o.example/f"})
        assert (answer.status, answer.body) == (502, b"<p>gone")
        assert (answer.headers["x-cafs-origin-status"], answer.headers["x-why"]) == ("410", "old")

        def late(_wish: Wish) -> Content:
            raise DeadlineError("too late")

        node.distributor.answer = late
        answer = await node.ask("POST", "/v1/download", {"url": "http://o.example/f"})
        assert (answer.status, json.loads(answer.body)) == (
            504,
            {"error": "too late", "reason": "unreachable"},
        )


async def test_an_error_in_the_middle_breaks_the_answer_off(
    short_tmp_path: Path, layer: MemoryLayer, expected_logs: ExpectedLogs
) -> None:
    expected_logs.expect("broken off")
    content = FakeContent(b"01234", 0, 10, IntegrityError("wrong"))
    content.last_byte = 9
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        node.distributor.answer = lambda _: content
        with pytest.raises(AssertionError, match="ended after 5 bytes"):
            await node.ask("POST", "/v1/download", {"url": "http://o.example/f"})
        assert content.closed


@pytest.mark.parametrize(
    ("method", "path", "document", "status"),
    [
        ("POST", "/v1/download", {"url": ""}, 400),
        ("POST", "/v1/download", {"url": "x", "more": 1}, 400),
        ("POST", "/v1/download", {"url": "x", "digest": "md5:1"}, 400),
        ("POST", "/v1/download", {"url": "x", "range": [1]}, 400),
        ("POST", "/v1/download", {"url": "x", "range": [-1, 2]}, 400),
        ("POST", "/v1/download", {"url": "x", "headers": [["a\r\nb", "c"]]}, 400),
        ("POST", "/v1/download", {"url": "x", "priority": 7}, 400),
        ("POST", "/v1/download", [], 400),
        ("GET", "/v1/download", None, 400),
        ("POST", "/v1/chunks", {}, 400),
        ("GET", "/v1/tasks/zz", None, 400),
        ("GET", f"/v1/tasks/{'0' * 64}", None, 404),
        ("DELETE", f"/v1/tasks/{'0' * 64}", None, 404),
        ("PATCH", "/v1/limits", {"nonsense": 1}, 400),
        ("PATCH", "/v1/limits", [1], 400),
        ("GET", "/nothing", None, 404),
    ],
)
async def test_what_is_not_understood_is_refused(
    short_tmp_path: Path, layer: MemoryLayer, method: str, path: str, document: Any, status: int
) -> None:
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        answer = await node.ask(method, path, document)
        assert answer.status == status, answer
        assert json.loads(answer.body)["reason"] in {"bad_request", "unknown"}


async def test_tasks_limits_and_figures(short_tmp_path: Path, layer: MemoryLayer) -> None:
    name = task_id("http://o.example/f")
    async with nodes(short_tmp_path, from_registry(layer), 1) as (node,):
        task = await node.tasks.take(TaskSpec(task_id=name, url="http://o.example/f"))
        task.set_meta(TaskMeta(Layout(MIB + 1, MIB)))
        await task.put_pieces([NewPiece(1, b"x")])
        listed = json.loads((await node.ask("GET", "/v1/tasks")).body)["tasks"]
        assert [(t["id"], t["pieces_here"], t["pieces"]) for t in listed] == [(name, 1, 2)]
        shown = json.loads((await node.ask("GET", f"/v1/tasks/{name}")).body)
        assert (shown["content_bytes"], shown["complete"]) == (MIB + 1, False)
        assert (await node.ask("DELETE", f"/v1/tasks/{name}")).status == 204
        assert node.tasks.tasks() == []
        changed = await node.ask("PATCH", "/v1/limits", {"upload_bytes_per_s": 5000})
        assert json.loads(changed.body)["upload_bytes_per_s"] == 5000
        assert not node.host.limits.upload.unlimited
        assert (await node.ask("GET", "/metrics")).body == b"x 1\n"
        assert json.loads((await node.ask("GET", "/v1/status")).body) == {"version": "x"}
