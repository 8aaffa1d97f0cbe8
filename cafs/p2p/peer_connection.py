"""One kept connection to another peer's upload server: heads by h11, bodies straight into their buffer.

A piece is 1 to 16 MiB; h11 would copy it twice. Used by one task at a time; a failure or a cancellation at
any await leaves the connection unusable, and its owner closes it. Every wait has a bound: the silence of the
other side, and the least speed that a body must come with.
"""

from __future__ import annotations

import select
import socket
import ssl

import h11
import trio

from cafs.errors import ProtocolError
from cafs.http11.messages import Headers

MAX_HEAD_BYTES = 16 << 10
READ_BYTES = 64 << 10
LEAST_BYTES_PER_S = 256 << 10
"""A parent that sends a piece more slowly is late: another one is quicker."""
WAKE_BYTES = 512 << 10


class PeerConnection:
    """To one upload server."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream], host: str) -> None:
        self._stream = stream
        self._plain = stream if isinstance(stream, trio.SocketStream) else None
        self._raw = stream if isinstance(stream, trio.SocketStream) else stream.transport_stream
        self._host = host
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._wakes_at = 1
        self.reusable = False
        """The last answer was read to its end, and the server keeps the connection."""

    async def ask(self, target: str, silence_s: float, more: Headers = ()) -> h11.Response:
        """GET, with ``more`` headers; returns the head of the answer.

        Raises:
            trio.TooSlowError: the other side was silent.
            OSError, trio.BrokenResourceError, h11.ProtocolError: as they say.
        """
        self.reusable = False
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        headers = [("Host", self._host), ("User-Agent", "cafs"), *more]
        request = self._state.send(h11.Request(method="GET", target=target, headers=headers))
        with trio.fail_after(silence_s):
            await self._stream.send_all(request + self._state.send(h11.EndOfMessage()))
            self._wake_at(1)
            while True:
                event = self._state.next_event()
                if isinstance(event, h11.Response):
                    return event
                if event is h11.NEED_DATA:
                    self._state.receive_data(await self._receive())
                elif not isinstance(event, h11.InformationalResponse):
                    raise ProtocolError("no answer")

    async def read_exactly(self, head: h11.Response, size: int, silence_s: float) -> bytearray:
        """The body of an answer that must have exactly ``size`` bytes.

        Raises:
            ProtocolError: it has another length.
            OSError, trio.BrokenResourceError: it ended too soon.
            trio.TooSlowError: silence, or too slow as a whole.
        """
        fields = {bytes(name): bytes(value) for name, value in head.headers}
        if b"transfer-encoding" in fields or fields.get(b"content-length") != b"%d" % size:
            raise ProtocolError(f"an answer of {size} bytes was expected")
        body = bytearray(size)
        early = self._state.trailing_data[0][:size]
        if len(self._state.trailing_data[0]) > size:
            raise ProtocolError("bytes came that nobody asked for")
        body[: len(early)] = early
        with trio.fail_after(silence_s + size / LEAST_BYTES_PER_S), memoryview(body) as view:
            await self._fill(view, len(early), silence_s)
        self.reusable = fields.get(b"connection", b"").lower() != b"close"
        return body

    async def _fill(self, view: memoryview, at: int, silence_s: float) -> None:
        while at < len(view):
            with trio.fail_after(silence_s):
                if self._plain is not None:
                    self._wake_at(min(WAKE_BYTES, len(view) - at))
                    count = await self._plain.socket.recv_into(view[at:])
                else:
                    data = await self._stream.receive_some(min(READ_BYTES, len(view) - at))
                    count = len(data)
                    view[at : at + count] = data
            if not count:
                raise ConnectionResetError(f"the body ended after {at} of {len(view)} bytes")
            at += count

    async def read_some(self) -> bytes:
        """The next bytes of a body of any length, empty at its end; waits as long as it takes."""
        self._wake_at(1)
        while True:
            event = self._state.next_event()
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if event is not h11.NEED_DATA:
                self.reusable = isinstance(event, h11.EndOfMessage) and self._state.their_state is h11.DONE
                return b""
            self._state.receive_data(await self._receive())

    async def _receive(self) -> bytes:
        """Something: a parent that dies has not spoken nonsense, so its end is not left to h11."""
        data = bytes(await self._stream.receive_some(READ_BYTES))
        if not data:
            raise ConnectionResetError("the connection ended in the middle")
        return data

    def is_alive(self) -> bool:
        """Whether the idle connection may be used: the server has neither closed it nor said anything."""
        readable = select.poll()
        readable.register(self._raw.socket.fileno(), select.POLLIN)
        return not readable.poll(0)

    def close(self) -> None:
        """Now, without a word."""
        self._raw.socket.close()

    def _wake_at(self, count: int) -> None:
        """Wake up for so many bytes only: each packet of its own costs more than all else that is done."""
        if self._plain is not None and count != self._wakes_at:
            self._plain.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wakes_at = count


async def connect_peer(address: str, context: ssl.SSLContext | None, connect_s: float) -> PeerConnection:
    """Open a connection to "ip:port" or "[ip6]:port"; in TLS if there is a context.

    Raises:
        trio.TooSlowError, OSError, trio.BrokenResourceError: it cannot be opened.
        ProtocolError: the address is none.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ProtocolError(f"not an address: {address[:100]!r}")
    host = host.removeprefix("[").removesuffix("]")
    with trio.fail_after(connect_s):
        plain = await trio.open_tcp_stream(host, int(port))
        if context is None:
            return PeerConnection(plain, address)
        try:
            tls = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
            await tls.do_handshake()
        except BaseException:
            plain.socket.close()
            raise
        return PeerConnection(tls, address)
