"""Hosts with their node sockets in one process; what is behind a socket may be of the test."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import trio

from cafs.errors import CafsError
from cafs.http11.messages import Handler
from cafs.http11.server import serve_http
from cafs.p2p.content import Content, Headers, Wish
from cafs.p2p.node_server import LIMITS, NodeParts, NodeServer
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.task_store import TaskStore, open_task_store
from tests.support.chunk_swarm import Host, swarm
from tests.support.fetching import MemoryLayer, ScriptedSource
from tests.support.http import Answered, ask

MIB = 1 << 20
REGISTRY = "docker://registry.example/app"


class FakeContent:
    """See ``Content``."""

    def __init__(self, body: bytes, first: int, total: int | None, breaks: CafsError | None = None) -> None:
        self.status = 200
        self.headers: Headers = (("content-type", "text/plain"), ("etag", '"1"'), ("content-length", "9"))
        self.content_bytes = total
        self.first_byte = first
        self.last_byte = None if total is None else first + len(body) - 1
        self.closed = False
        self._body = body
        self._breaks = breaks

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for begin in range(0, len(self._body), 3):
            await trio.lowlevel.checkpoint()
            yield self._body[begin : begin + 3]
        if self._breaks is not None:
            raise self._breaks


class FakeDistributor:
    """Answers what the test says."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []
        self.answer: Callable[[Wish], Content] = lambda _: FakeContent(b"0123456789", 0, 10)

    async def open(self, wish: Wish) -> Content:
        await trio.lowlevel.checkpoint()
        self.wishes.append(wish)
        return self.answer(wish)


@asynccontextmanager
async def listening(path: Path, handler: Handler) -> AsyncIterator[trio.CancelScope]:
    """Serve on a unix socket; cancelling the scope is the server's death."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def live() -> None:
                with scope:
                    await serve_http(listener, handler, LIMITS)
                listener.close()

            nursery.start_soon(live)
            yield scope
            nursery.cancel_scope.cancel()


def parts(host: Host, tasks: TaskStore, distributor: FakeDistributor | None = None) -> NodeParts:
    return NodeParts(
        tasks=tasks,
        exchange=host.exchange,
        limits=host.limits,
        store=host.directory / "store",
        distributor=distributor,
        profiles=ProfileRelay(has_manager=False, is_on=True),
        status=lambda: {"version": "x"},
        metrics=lambda: b"x 1\n",
    )


class Node:
    """A host with its node socket."""

    def __init__(self, host: Host, path: Path, tasks: TaskStore, distributor: FakeDistributor) -> None:
        self.host = host
        self.path = path
        self.tasks = tasks
        self.distributor = distributor
        self.scope = trio.CancelScope()

    async def ask(self, method: str, path: str, document: Any = None) -> Answered:
        body = b"" if document is None else json.dumps(document).encode()
        return await ask(self.path, method, path, body)


@asynccontextmanager
async def nodes(path: Path, source: ScriptedSource, count: int) -> AsyncIterator[list[Node]]:
    async with AsyncExitStack() as stack:
        hosts, table = await stack.enter_async_context(swarm(path, source, count))
        made = []
        for number, host in enumerate(hosts):
            table.members[host.id] = host.member()
            tasks = await stack.enter_async_context(open_task_store(path / f"t{number}", 64 * MIB))
            node = Node(host, path / f"n{number}", tasks, FakeDistributor())
            server = NodeServer(parts(host, tasks, node.distributor))
            node.scope = await stack.enter_async_context(listening(node.path, server.handle))
            made.append(node)
        yield made


def from_registry(layer: MemoryLayer) -> ScriptedSource:
    return ScriptedSource(layer.blob, name=REGISTRY)
