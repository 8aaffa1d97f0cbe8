"""``GET /metrics`` on a TCP port, in grpc.aio's loop: a program's figures.

One port for the node, so that the mount server needs none: whoever reaches it can read figures and nothing
else. A connection is one request, with a deadline; there are few at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

import h11

from cafs.core.exposition import CONTENT_TYPE
from cafs.errors import StateError

_PATIENCE_S = 10.0
_MAX_CONNECTIONS = 16
_HEAD_BYTES = 16 << 10

Render = Callable[[], Awaitable[bytes]]


@asynccontextmanager
async def metrics_served(host: str, port: int, render: Render) -> AsyncIterator[int]:
    """Serve what ``render`` gives at each request while the context lasts; yields the port.

    Raises:
        StateError: the address cannot be had.
    """
    room = asyncio.Semaphore(_MAX_CONNECTIONS)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S), room:
                writer.write(await _answer(reader, render))
                await writer.drain()
        except (TimeoutError, OSError, h11.ProtocolError):
            pass  # who asks nonsense, or too slowly, gets nothing
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(serve, host, port, limit=_HEAD_BYTES)
    except OSError as e:
        raise StateError(f"cannot serve metrics on {host}:{port}: {e.strerror}") from e
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _answer(reader: asyncio.StreamReader, render: Render) -> bytes:
    http = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=_HEAD_BYTES)
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(_HEAD_BYTES))
    if not isinstance(event, h11.Request):
        return b""
    status, body = HTTPStatus.NOT_FOUND, b"the figures are at /metrics\n"
    if event.method != b"GET":
        status, body = HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n"
    elif event.target.partition(b"?")[0] == b"/metrics":
        status, body = HTTPStatus.OK, await render()
    kind = CONTENT_TYPE if status is HTTPStatus.OK else "text/plain"
    headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")]
    events: list[h11.Event] = [
        h11.Response(status_code=status, headers=headers, reason=status.phrase.encode()),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ]
    return b"".join(http.send(event) or b"" for event in events)
