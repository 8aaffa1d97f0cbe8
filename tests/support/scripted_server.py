"""A server that says exactly what a test scripts, byte by byte: for what no honest HTTP library would send.

A script is an async function that gets each connection's stream. Connections are counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import trio


@dataclass
class ScriptedServer:
    """A listening server."""

    host: str
    """``HOST:PORT``."""
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    """The requests that ``read_request`` has read."""

    async def read_request(self, stream: trio.SocketStream) -> bytes:
        """The head of the next request; empty when the client has closed the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            data = await stream.receive_some(1)
            if not data:
                return b""
            head += data
        self.heads.append(head)
        return head


@asynccontextmanager
async def serve_script(
    script: Callable[[ScriptedServer, trio.SocketStream], Awaitable[None]],
) -> AsyncIterator[ScriptedServer]:
    """Serve while the context lasts."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = ScriptedServer(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")

        async def handle(stream: trio.SocketStream) -> None:
            server.connections += 1
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # the client went away
                await script(server, stream)

        await nursery.start(trio.serve_listeners, handle, listeners)
        yield server
        nursery.cancel_scope.cancel()
