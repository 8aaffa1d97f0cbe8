"""One HTTP/1.1 connection on trio: h11 speaks, this module carries the bytes.

A body whose length was said is read past h11, which would copy all of it twice.

Made and owned by the registry client's ``direct`` and by ``ConnectionPool``. Used by one task at a time. A
failure or a cancellation at any await leaves the connection unusable, and its owner closes it. Knows nothing
of addresses, credentials or retries.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from collections.abc import Callable, Sequence

import h11
import trio

from cafs.http11.receive_window import narrow_window

READ_BYTES, READ_HERE_BYTES = 256 << 10, 1 << 20
"""Taken from the socket at once, at most; from one on this machine."""
WAKE_BYTES = 32 << 10
"""A body's wait ends when so much of it is here: a slow link brings a packet a millisecond, and waking up
for each of them costs more than all else that is done for an answer."""
MAX_HEAD_BYTES = 64 << 10
_BODILESS = frozenset((204, 304))


class Connection:
    """A socket to one server, perhaps in TLS."""

    def __init__(
        self,
        plain: trio.SocketStream,
        tls: trio.SSLStream[trio.SocketStream] | None,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._socket = plain.socket
        self._read_bytes = read_bytes
        self._stream: trio.abc.Stream = tls or plain
        self._tls = tls is not None
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._left: int | None = None
        """Bytes of the body that were announced and are still to be received; None: h11 finds its end."""
        self._early = b""
        """What of it came with the head."""
        self._keeps = False
        """The server will take another request."""
        self._wakes_at = 1
        self._is_asked = False
        """It was, at least once."""
        self._queue_bytes: int | None = None
        self.idle_since = 0.0
        self.answered = False
        """Something of the answer to the last request has come."""

    async def ask(
        self,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]],
        stall_s: float,
        body: bytes = b"",
    ) -> h11.Response:
        """Send a request, whose headers say how long a body it has; returns the head of the answer.

        Raises:
            trio.TooSlowError: the server was silent for ``stall_s``.
            OSError, trio.BrokenResourceError, h11.ProtocolError: as they say.
        """
        self._is_asked, self.answered, self._left, self._early = True, False, None, b""
        if self._queue_bytes is not None:
            narrow_window(self._socket, self._queue_bytes)
        fields = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        request = h11.Request(method=method, target=target, headers=fields)
        message = self._state.send(request)
        if body:
            message += self._state.send(h11.Data(data=body))
        message += self._state.send(h11.EndOfMessage())
        with trio.fail_after(stall_s):
            await self._stream.send_all(message)
        event = await self._next_event(stall_s)
        while isinstance(event, h11.InformationalResponse):
            event = await self._next_event(stall_s)
        assert isinstance(event, h11.Response), event  # h11 lets no other event come first
        self._take_length(method, event)
        return event

    def _take_length(self, method: str, head: h11.Response) -> None:
        fields = dict(head.headers)
        length = fields.get(b"content-length")
        if length is None or b"transfer-encoding" in fields or method == "HEAD":
            return
        if head.status_code not in _BODILESS:
            self._left, self._early = int(length), self._state.trailing_data[0]
            said = [value.lower() for name, value in head.headers if name == b"connection"]
            self._keeps = head.http_version == b"1.1" and not any(b"close" in value for value in said)

    async def receive(self, stall_s: float) -> bytes:
        """The next piece of the body, empty at its end; raises as ``ask``."""
        if self._left is not None:
            return await self._receive_counted(stall_s, self._left)
        event = await self._next_event(stall_s)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _receive_counted(self, stall_s: float, left: int) -> bytes:
        if not left:
            return b""
        early, self._early = self._early, b""
        data = early or await self._read(stall_s, left + 1)
        if not data:
            raise h11.RemoteProtocolError(f"the body ended {left} bytes too soon")
        self._keeps = self._keeps and len(data) <= left  # nobody asked for more: it is no next answer
        self._left = max(0, left - len(data))
        return data[:left]

    def narrow(self, queue_bytes: int) -> None:
        """From the next request on let the server send no more than about so much that the way does not hold
        and that is not taken yet. For TCP.
        """
        self._queue_bytes = queue_bytes

    def reset(self) -> bool:
        """Make ready for the next request; False when the connection is not fit for one."""
        try:
            if self._left is not None:
                if self._left or self._early or not self._keeps:
                    return False
                self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
                self._wake_at(1)
                return True
            if self._state.their_state is h11.SEND_BODY:
                self._state.next_event()  # of a body whose bytes were all read, or that has none
            if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
                return False
            if self._state.trailing_data[0]:
                return False  # nobody asked for that; it would be taken for the next answer
            self._state.start_next_cycle()
            self._wake_at(1)
        except (OSError, h11.ProtocolError):
            return False
        return True

    def is_alive(self) -> bool:
        """Whether an idle connection may be used: the server has neither closed it nor said anything.

        In TLS it says something before it is asked for the first time: it hands out session tickets.
        """
        unasked = self._tls and not self._is_asked
        readable = select.poll()
        readable.register(self._socket.fileno(), select.POLLRDHUP if unasked else select.POLLIN)
        return not readable.poll(0)

    def close(self) -> None:
        """Now, without a word to the server."""
        self._socket.close()

    async def _next_event(self, stall_s: float) -> h11.Event:
        while True:
            event = self._state.next_event()
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event), event  # PAUSED comes only to those who pipeline
                return event
            data = await self._read(stall_s)
            self.answered = self.answered or bool(data)
            self._state.receive_data(data)

    async def _read(self, stall_s: float, wanted: int = 1) -> bytes:
        most = self._read_bytes if self._left is None else min(self._read_bytes, wanted)
        if self._tls:
            with trio.fail_after(stall_s):
                return bytes(await self._stream.receive_some(most))
        self._wake_at(max(1, min(wanted - 1, WAKE_BYTES)))
        with trio.move_on_after(stall_s):
            return await self._socket.recv(most)
        try:
            # Perhaps something came, only not enough to wake us: that is no silence.
            return os.read(self._socket.fileno(), most)
        except BlockingIOError:
            raise trio.TooSlowError from None

    def _wake_at(self, count: int) -> None:
        if count != self._wakes_at:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._wakes_at = count


async def connect(
    host: str, port: int, context: ssl.SSLContext | None, check: Callable[[str], None] | None = None
) -> Connection:
    """Open a connection, in TLS if there is a context.

    Args:
        check: Hears the address that the name led to, before anything is said there; may raise.

    Raises:
        OSError, trio.BrokenResourceError: it cannot be opened, or the server is not who it should be.
        Exception: of ``check``.
    """
    plain = await trio.open_tcp_stream(host, port)
    try:
        if check is not None:
            check(plain.socket.getpeername()[0])
        if context is None:
            return Connection(plain, None)
        tls = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
        await tls.do_handshake()
    except BaseException:
        plain.socket.close()
        raise
    return Connection(plain, tls)


async def connect_unix(path: str) -> Connection:
    """Open a connection to a unix socket; raises as ``connect``."""
    return Connection(await trio.open_unix_socket(path), None, READ_HERE_BYTES)
