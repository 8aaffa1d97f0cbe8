"""The client of the node socket, and the connections that it keeps."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from cafs.errors import RemoteError, UnavailableError
from cafs.http11.conversation import Conversation, PeerLeftError
from cafs.http11.messages import Answer, Reply, Request
from cafs.p2p import node_client
from cafs.p2p.content import Wish
from cafs.p2p.node_client import NodeDistributor, parse_refusal
from cafs.p2p.node_server import LIMITS
from tests.support.grid import until
from tests.support.node_sockets import listening


class OneByOne:
    """A node socket that counts connections, and can close the last one."""

    def __init__(self) -> None:
        self.connections = 0
        self._last = trio.CancelScope()
        self._ended = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self._last, self._ended = trio.CancelScope(), trio.Event()
        ended = self._ended
        with self._last, suppress(PeerLeftError):
            async with stream:
                await Conversation(stream, stream.socket, "", self._answer, LIMITS).run()
        ended.set()

    async def close_last(self) -> None:
        self._last.cancel()
        await self._ended.wait()

    async def _answer(self, request: Request, reply: Reply) -> None:
        async with reply.stream(200, 1 << 30 if b"endless" in request.body else 3) as send:
            await send(b"abc")
            if b"endless" in request.body:
                await trio.sleep_forever()


async def read(node: NodeDistributor, wish: Wish) -> bytes:
    async with await node.open(wish) as content:
        return b"".join([piece async for piece in content])


async def test_connections_to_a_peer_are_kept_while_their_answers_are_read_whole(
    short_tmp_path: Path,
) -> None:
    path, small, peer = short_tmp_path / "n", Wish(url="http://o.example/small"), OneByOne()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
            await nursery.start(trio.serve_listeners, peer.serve, [listening])
            node = NodeDistributor(path, most_kept=2)
            assert [await read(node, small) for _ in range(3)] == [b"abc"] * 3
            assert peer.connections == 1
            async with await node.open(Wish(url="http://o.example/endless")) as content:
                assert await anext(aiter(content)) == b"abc"
            assert await read(node, small) == b"abc"
            assert peer.connections == 2
            await peer.close_last()
            assert await read(node, small) == b"abc"
            assert peer.connections == 3
            node.close()
            unkept = NodeDistributor(path)
            assert [await read(unkept, small) for _ in range(2)] == [b"abc"] * 2
            assert peer.connections == 5
            nursery.cancel_scope.cancel()


async def test_a_peer_that_hangs_is_as_none(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens, and that is all: a process that was stopped, or one that waits for its disk."""
    monkeypatch.setattr(node_client, "_DOUBT_S", 0.01)
    monkeypatch.setattr(node_client, "_ALIVE_S", 0.01)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_tmp_path / "n"))
        listener.listen()
        with pytest.raises(UnavailableError, match="does nothing"):
            await NodeDistributor(short_tmp_path / "n").open(Wish(url="http://o.example/f"))


async def test_a_peer_that_is_only_slow_is_waited_for(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_client, "_DOUBT_S", 0.01)
    asked: list[str] = []

    async def answer(request: Request, reply: Reply) -> None:
        asked.append(request.path)
        if request.path == "/v1/download":
            await until(lambda: asked.count("/v1/status") > 2)
        await reply.send(Answer(200, b"abc"))

    async with listening(short_tmp_path / "n", answer):
        node = NodeDistributor(short_tmp_path / "n")
        assert await read(node, Wish(url="http://o.example/f")) == b"abc"


@pytest.mark.parametrize("body", [b"", b"[" * 100_000, b"[]", b"{}", b"\xff", b'{"error": 1}'])
def test_a_refusal_that_is_none_is_one_of_its_status(body: bytes) -> None:
    error = parse_refusal(507, body)
    assert (type(error), str(error)) == (RemoteError, "the peer answered 507")
