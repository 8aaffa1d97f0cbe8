"""A client for tests of servers: one request, one answer with a length."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    headers: dict[str, str]
    body: bytes


@asynccontextmanager
async def open_to(where: int | Path) -> AsyncIterator[trio.SocketStream]:
    """A connection to a port of this machine, or to a unix socket."""
    if isinstance(where, int):
        stream = await trio.open_tcp_stream("127.0.0.1", where)
        assert isinstance(stream, trio.SocketStream)
    else:
        stream = await trio.open_unix_socket(str(where))
    async with stream:
        yield stream


async def ask(where: int | Path, method: str, path: str, body: bytes = b"") -> Answered:
    """One request on a connection of its own."""
    async with open_to(where) as stream:
        head = f"{method} {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with suppress(trio.BrokenResourceError):  # refused before all was sent
            await stream.send_all(head + body)
        return await read_answer(stream)


async def read_head(stream: trio.SocketStream) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by small name, and what came behind them."""
    received = b""
    while b"\r\n\r\n" not in received:
        more = await stream.receive_some()
        assert more, received
        received += more
    head, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, rest


async def read_answer(stream: trio.SocketStream) -> Answered:
    """A whole answer, in chunks or with a length."""
    status, headers, body = await read_head(stream)
    chunked = headers.get("transfer-encoding") == "chunked"
    while not body.endswith(b"0\r\n\r\n") if chunked else len(body) < int(headers["content-length"]):
        more = await stream.receive_some()
        assert more, f"ended after {len(body)} bytes"
        body += more
    return Answered(status, headers, _join(body) if chunked else body)


def _join(body: bytes) -> bytes:
    parts = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        parts.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return b"".join(parts)
