"""A proxy in this process, clients that say exactly what a test wants, and an origin in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h11
import trio

from cafs.core.proxying.guard import parse_guard
from cafs.core.proxying.mirror import parse_mirrors
from cafs.core.proxying.rules import parse_rules
from cafs.p2p.content import Distributor
from cafs.proxy.config import ProxyConfig
from cafs.proxy.origin import Patience
from cafs.proxy.service import Proxy
from tests.support.patience import PATIENCE_S

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Asked:
    """One request as the origin got it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Told:
    """One answer."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """False: the connection broke before the end."""


@dataclass
class Origin:
    """An HTTP server whose answers a test gives by path."""

    host: str
    pages: dict[str, Callable[[Asked], Told]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        """``http://HOST:PORT``."""
        return f"http://{self.host}"

    def page(self, path: str, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer ``path`` always like this, with ranges where they are asked for."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        def answer(asked: Asked) -> Told:
            found = asked.headers.get("range", "")
            if status != 200 or not found or "," in found:
                return Told(status, named, body)
            first_text, _, last_text = found.removeprefix("bytes=").partition("-")
            first = int(first_text) if first_text else len(body) - int(last_text)
            last = min(int(last_text), len(body) - 1) if last_text and first_text else len(body) - 1
            if first >= len(body):
                return Told(416, {**named, "content-range": f"bytes */{len(body)}"}, b"")
            ranged = {**named, "content-range": f"bytes {first}-{last}/{len(body)}"}
            return Told(206, ranged, body[first : last + 1])

        self.pages[path] = answer


@asynccontextmanager
async def serve_origin() -> AsyncIterator[Origin]:
    """An origin on loopback."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        origin = Origin(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}")

        async def handle(stream: trio.SocketStream) -> None:
            try:
                await _converse(origin, stream)
            except (trio.BrokenResourceError, h11.ProtocolError):
                await stream.aclose()

        await nursery.start(trio.serve_listeners, handle, listeners)
        yield origin
        nursery.cancel_scope.cancel()


async def _converse(origin: Origin, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=256 << 10)
    while True:
        head = await _next(connection, stream)
        if not isinstance(head, h11.Request):
            return
        body = b""
        while isinstance(event := await _next(connection, stream), h11.Data):
            body += bytes(event.data)
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        asked = Asked(head.method.decode(), head.target.decode(), headers, body)
        origin.asked.append(asked)
        path = asked.target.partition("?")[0]
        told = origin.pages[path](asked) if path in origin.pages else Told(404, {}, b"no such page")
        fields = list(told.headers.items())
        if "content-length" not in told.headers and "transfer-encoding" not in told.headers:
            fields.append(("content-length", str(len(told.body))))
        parts = [
            connection.send(h11.Response(status_code=told.status, headers=fields, reason=b"As scripted"))
            or b""
        ]
        if asked.method != "HEAD" and told.body:
            parts.append(connection.send(h11.Data(data=told.body)) or b"")
        if not told.whole:
            await stream.send_all(b"".join(parts))
            await stream.aclose()
            return
        parts.append(connection.send(h11.EndOfMessage()) or b"")
        await stream.send_all(b"".join(parts))
        connection.start_next_cycle()


async def _next(connection: h11.Connection, stream: trio.SocketStream) -> h11.Event:
    while (event := connection.next_event()) is h11.NEED_DATA:
        if connection.they_are_waiting_for_100_continue:
            go_on = connection.send(h11.InformationalResponse(status_code=100, headers=[]))
            await stream.send_all(go_on or b"")
        connection.receive_data(await stream.receive_some(1 << 16))
    assert isinstance(event, h11.Event)
    return event


@dataclass
class RunningProxy:
    """A proxy that listens."""

    port: int
    proxy: Proxy

    async def connect(self) -> trio.SocketStream:
        """A client's connection."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def say(self, raw: bytes) -> bytes:
        """Send ``raw``, and return all that comes until the proxy closes."""
        async with await self.connect() as stream:
            await stream.send_all(raw)
            return await read_all(stream)

    async def get(self, url: str, *headers: tuple[str, str], method: str = "GET", body: bytes = b"") -> Told:
        """One request by absolute-form (or by path), on a connection of its own."""
        async with await self.connect() as stream:
            return await ask(stream, method, url, headers, body)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    """Until the other side closes or breaks it off."""
    received = b""
    try:
        with trio.fail_after(PATIENCE_S):
            while data := await stream.receive_some(1 << 16):
                received += data
    except trio.BrokenResourceError:
        pass
    return received


async def ask(
    stream: trio.abc.Stream,
    method: str,
    url: str,
    headers: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
) -> Told:
    """One request on this connection, and its whole answer."""
    connection = h11.Connection(h11.CLIENT)
    if not any(name.lower() == "host" for name, _ in headers):
        headers = (("host", "whatever.example"), *headers)
    fields = list(headers)
    if body:
        fields.append(("content-length", str(len(body))))
    sent = connection.send(h11.Request(method=method, target=url, headers=fields)) or b""
    sent += connection.send(h11.Data(data=body)) or b"" if body else b""
    await stream.send_all(sent + (connection.send(h11.EndOfMessage()) or b""))
    status, told, received = 0, {}, b""
    try:
        with trio.fail_after(PATIENCE_S):
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(1 << 16))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    told = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    received += bytes(event.data)
                elif isinstance(event, h11.ConnectionClosed):
                    return Told(status, told, received, whole=False)
    except (h11.RemoteProtocolError, trio.BrokenResourceError):
        return Told(status, told, received, whole=False)
    return Told(status, told, received)


@asynccontextmanager
async def run_proxy(
    *,
    rules: tuple[str, ...] = (),
    allow: tuple[str, ...] = ("127.0.0.0/8",),
    mirrors: tuple[str, ...] = (),
    registry: str = "docker.io",
    distributor: Distributor | None = None,
    patience: Patience | None = None,
    config: ProxyConfig | None = None,
) -> AsyncIterator[RunningProxy]:
    """A proxy on loopback while the context lasts."""
    config = config or ProxyConfig(
        rules=parse_rules(rules),
        guard=parse_guard(allow),
        mirrors=parse_mirrors(mirrors),
        default_registry=registry,
    )
    proxy = Proxy(config, patience or Patience(2, 2, 5), distributor)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.serve, listeners)
            yield RunningProxy(listeners[0].socket.getsockname()[1], proxy)
            nursery.cancel_scope.cancel()
    finally:
        for listener in listeners:
            listener.socket.close()
