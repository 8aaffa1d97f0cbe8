"""The requests of one connection, one after the other.

A request is read whole, and bounded, before its handler is called; while the handler runs, the connection is
watched, and a client that closes it ends the handler. (On TCP one that only shuts its sending side looks the
same, and is taken to have left.) Requests that two readers could understand differently are refused, and end
the connection.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import cast

import h11
import trio

from cafs.http11.messages import BYTES_TYPE, Answer, Handler, Headers, Request, Send, ServerLimits, refusal
from cafs.http11.sending import send_all

log = logging.getLogger(__name__)

SLICE_BYTES = 1 << 20
"""Sent at once: a client has ``send_s`` to take so much. Each costs a turn of the loop, whatever its size."""
_READ_BYTES = 16 << 10
"""At most ``head_bytes``: h11 bounds only what is not complete yet."""
_JOINED_BYTES = 128 << 10
"""So much of a body, a chunk or two, is copied behind its head: whoever reads wakes up once for both."""
_LINGER_BYTES, _LINGER_S = 1 << 20, 2.0
"""What is still read of a refused request: a socket closed on unread bytes would take the answer with it."""


class PeerLeftError(Exception):
    """The client closed the connection while it was being answered."""


class _RefusedError(Exception):
    """The request cannot be taken; the connection ends with this answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = refusal(status, message, "bad_request")


class Conversation:
    """See the module."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        plain: trio.socket.SocketType,
        client: str,
        handler: Handler,
        limits: ServerLimits,
    ) -> None:
        """``plain`` is the socket below ``stream``."""
        self._stream = stream
        self._plain = plain
        self._client = client
        self._handler = handler
        self._limits = limits
        self._http = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=limits.head_bytes)

    async def run(self) -> None:
        """Until either side has enough."""
        while True:
            try:
                request = await self._receive()
            except _RefusedError as e:
                await self._turn_away(e.answer)
                return
            except h11.RemoteProtocolError as e:
                if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._turn_away(refusal(e.error_status_hint, f"malformed: {e}", "bad_request"))
                return
            if request is None:
                return
            await self._answer(request)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _turn_away(self, answer: Answer) -> None:
        """The last answer of this connection."""
        closing = Answer(
            answer.status, answer.body, answer.content_type, (*answer.headers, ("Connection", "close"))
        )
        await _Reply(self._stream, self._http, self._limits, has_body=True).send(closing)
        seen = 0
        with trio.move_on_after(_LINGER_S):
            while seen < _LINGER_BYTES and (more := await self._stream.receive_some(_READ_BYTES)):
                seen += len(more)

    # A request

    async def _receive(self) -> Request | None:
        """The next request, None when the client has no more."""
        with trio.move_on_after(self._limits.idle_s):
            if not self._http.trailing_data[0]:
                self._http.receive_data(bytes(await self._stream.receive_some(_READ_BYTES)))
            with trio.fail_after(self._limits.request_s):
                return await self._receive_whole()
        return None

    async def _receive_whole(self) -> Request | None:
        head = await self._next_event()
        if isinstance(head, h11.ConnectionClosed):
            return None
        assert isinstance(head, h11.Request)
        _check_head(head, self._limits.body_bytes)
        body = bytearray()
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data)
            body += event.data
            if len(body) > self._limits.body_bytes:
                raise _too_large(self._limits.body_bytes)
        path, _, query = head.target.decode("ascii").partition("?")
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        return Request(head.method.decode("ascii"), path, bytes(body), query, headers, self._client)

    async def _next_event(self) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event)
                return event
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._stream.send_all(self._http.send(go_on) or b"")
            self._http.receive_data(bytes(await self._stream.receive_some(_READ_BYTES)))

    # Its answer

    async def _answer(self, request: Request) -> None:
        reply = _Reply(self._stream, self._http, self._limits, has_body=request.method != "HEAD")
        left = False

        async def watch(scope: trio.CancelScope) -> None:
            nonlocal left
            if await self._is_closed():
                left = True
                scope.cancel()

        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            try:
                await self._handler(request, reply)
            except Exception as e:  # let out of the nursery without a group round it
                failure = e
            nursery.cancel_scope.cancel()
        if left and not reply.ended:
            raise PeerLeftError
        await self._settle(request, reply, failure)

    async def _settle(self, request: Request, reply: _Reply, failure: Exception | None) -> None:
        """Give the client an end: of an answer that there is, or of one that says that there is none."""
        if isinstance(failure, trio.BrokenResourceError | trio.ClosedResourceError | trio.TooSlowError):
            raise failure
        if failure is not None:
            log.error("%s %.200s failed in an unforeseen way", request.method, request.path, exc_info=failure)
        if not reply.begun:
            what = f"unforeseen: {type(failure).__name__}: {failure}" if failure else "there is no answer"
            await reply.send(refusal(HTTPStatus.INTERNAL_SERVER_ERROR, what, "internal"))
        elif not reply.ended:
            raise PeerLeftError  # what was begun is broken off

    async def _is_closed(self) -> bool:
        """Wait until the client closes the connection; False when it sends something instead."""
        await trio.lowlevel.wait_readable(self._plain.fileno())
        try:
            if await self._plain.recv(1, socket.MSG_PEEK):
                return False
        except OSError:
            return True
        if self._plain.family != socket.AF_UNIX:
            return True
        hung_up = select.poll()
        hung_up.register(self._plain.fileno(), 0)  # POLLHUP is always told: both directions are closed
        return bool(hung_up.poll(0))


class _Reply:
    """See ``cafs.http11.messages.Reply``."""

    def __init__(
        self, stream: trio.abc.Stream, http: h11.Connection, limits: ServerLimits, *, has_body: bool
    ) -> None:
        self._stream = stream
        self._http = http
        self._limits = limits
        self._has_body = has_body
        self._unsent = b""
        """A head that waits for what follows it."""
        self.begun = False
        self.ended = False

    async def send(self, answer: Answer) -> None:
        """See ``Reply``."""
        head = self._head(answer.status, len(answer.body), answer.content_type, answer.headers)
        if len(answer.body) > _JOINED_BYTES:
            await self._push(head)
            await self._send_piece(answer.body)
            head = b""
        elif self._has_body:
            head += b"".join(self._framed(answer.body))
        await self._push(head + (self._http.send(h11.EndOfMessage()) or b""))
        self.ended = True

    @asynccontextmanager
    async def stream(
        self, status: int, content_bytes: int | None, content_type: str = BYTES_TYPE, headers: Headers = ()
    ) -> AsyncIterator[Send]:
        """See ``Reply``."""
        head = self._head(status, content_bytes, content_type, headers)
        if content_bytes is not None and content_bytes <= _JOINED_BYTES:
            self._unsent = head
        else:
            await self._push(head)
        yield self._send_piece
        await self._push(self._http.send(h11.EndOfMessage()) or b"")
        self.ended = True

    def _head(self, status: int, content_bytes: int | None, content_type: str, headers: Headers) -> bytes:
        assert not self.begun, "one request has one answer"
        self.begun = True
        fields = [("Content-Type", content_type), *headers]
        if content_bytes is not None:
            fields.append(("Content-Length", str(content_bytes)))
        reason = HTTPStatus(status).phrase.encode()
        return self._http.send(h11.Response(status_code=status, headers=fields, reason=reason)) or b""

    async def _send_piece(self, data: bytes | memoryview) -> None:
        if not self._has_body or not len(data):
            return
        parts = self._framed(data)
        if len(data) <= _JOINED_BYTES:  # one packet, and one wake-up of whoever reads
            parts = [b"".join(parts)]
        for part in parts:
            await self._push(part)

    def _framed(self, data: bytes | memoryview) -> list[bytes]:
        # Passed through as it is: h11 asks no more of it than its length.
        return self._http.send_with_data_passthrough(h11.Data(data=cast(bytes, data))) or []

    async def _push(self, data: bytes | memoryview) -> None:
        if self._unsent:
            data, self._unsent = b"".join((self._unsent, data)), b""
        view = memoryview(data)
        for begin in range(0, len(view), SLICE_BYTES):
            with trio.fail_after(self._limits.send_s):
                await send_all(self._stream, view[begin : begin + SLICE_BYTES])


def _check_head(head: h11.Request, body_bytes: int) -> None:
    """Refuse what is not for us, is too large, or could be framed in two ways.

    Raises:
        _RefusedError: it is.
    """
    names = [name for name, _ in head.headers]
    if b"transfer-encoding" in names and (b"content-length" in names or head.http_version < b"1.1"):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "a body has one framing, not two")
    if not head.target.startswith(b"/"):
        raise _RefusedError(HTTPStatus.BAD_REQUEST, "this server is no proxy: a target begins with /")
    declared = next((int(value) for name, value in head.headers if name == b"content-length"), 0)
    if declared > body_bytes:
        raise _too_large(body_bytes)


def _too_large(body_bytes: int) -> _RefusedError:
    return _RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has {body_bytes} bytes at most")
