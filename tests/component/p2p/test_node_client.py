"""The client of the node socket, and the connections that it keeps."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import trio

from cafs.http11.conversation import Conversation, PeerLeftError
from cafs.http11.messages import Reply, Request
from cafs.p2p.content import Wish
from cafs.p2p.node_client import NodeDistributor
from cafs.p2p.node_server import LIMITS


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
