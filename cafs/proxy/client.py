"""One client's connection: strict heads in, bodies in, answers out. Knows nothing of what is asked.

Used by one task at a time. The head is read by ``cafs.core.proxying.head``, which is stricter than h11; h11
then frames bodies in both directions. Any failure or cancellation leaves the connection unusable.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable

import h11
import trio

from cafs.core.proxying.head import MAX_HEAD_BYTES, RequestHead, find_head, parse_head
from cafs.core.proxying.refusal import RequestRefusedError, bad_request

READ_BYTES = 64 << 10
HEAD_PATIENCE_S = 30.0
"""For the whole head, once its first byte came."""
IDLE_S = 75.0
"""Between two requests."""
SEND_PATIENCE_S = 60.0
"""For a client to take one piece."""
_EMPTY_LINES = re.compile(rb"(?:\r\n)*")
_DRAIN_BYTES = 256 << 10
"""Of a body that nobody wanted: reading so much is cheaper than a new connection."""
_JOINED_BYTES = 32 << 10
"""So much of a body is copied behind its head, so that both leave in one packet."""


class Client:
    """See the module."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = bytearray()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head_sent = False
        self._unsent = b""
        """A head that waits for what follows it."""
        self._wants_head_only = False
        self.has_ended = False
        """The client said, where a request could begin, that there is no more."""

    @property
    def answered(self) -> bool:
        """An answer to the present request has begun."""
        return self._head_sent

    async def next_head(self) -> RequestHead | None:
        """The next request; None when the client has no more, or is idle for too long.

        Raises:
            RequestRefusedError: it is not fit to be served; nothing more can be read after it.
        """
        self._drop_empty_lines()
        if not self._received:
            with trio.move_on_after(IDLE_S):
                self._received += await self.stream.receive_some(READ_BYTES)
                self.has_ended = not self._received
            if not self._received:
                return None
        with trio.move_on_after(HEAD_PATIENCE_S):
            return await self._rest_of_head()
        return None

    async def _rest_of_head(self) -> RequestHead | None:
        empty = self._drop_empty_lines()
        seen = 0
        while (length := find_head(self._received, seen)) is None:
            seen = len(self._received)
            more = await self.stream.receive_some(READ_BYTES)
            if not more:
                return None
            self._received += more
            if dropped := self._drop_empty_lines():
                empty, seen = empty + dropped, 0
            if empty > MAX_HEAD_BYTES:
                raise RequestRefusedError(431, "nothing but empty lines")
        head = parse_head(bytes(self._received[:length]))
        if head.method != "CONNECT":
            self._begin(bytes(self._received))
            self._received.clear()
        else:
            del self._received[:length]
        return head

    def _drop_empty_lines(self) -> int:
        """RFC 9112, 2.2: some clients send one too many after a body. Returns how many bytes went."""
        found = _EMPTY_LINES.match(self._received)
        assert found is not None, "it matches nothing, too"
        del self._received[: found.end()]
        return found.end()

    def _begin(self, received: bytes) -> None:
        self._head_sent = False
        try:
            self._http.receive_data(received)
            event = self._http.next_event()
        except h11.RemoteProtocolError as e:
            raise bad_request("not a request as HTTP/1.1 has them") from e
        assert isinstance(event, h11.Request), event
        self._wants_head_only = event.method == b"HEAD"

    def take_unread(self) -> bytes:
        """After CONNECT: what the client sent behind its head."""
        unread = bytes(self._received)
        self._received.clear()
        return unread

    async def body(self) -> AsyncGenerator[bytes]:
        """The request's body as it comes. The client is told to go on if it waits for that.

        Raises:
            RequestRefusedError: it is not framed as it should be.
        """
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as e:
                raise bad_request("the body is not framed as it should be") from e
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif event is h11.NEED_DATA:
                await self._receive_more()
            else:
                return

    async def _receive_more(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            go_on = self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
            await self.stream.send_all(go_on or b"")
        with trio.move_on_after(SEND_PATIENCE_S):
            self._http.receive_data(bytes(await self.stream.receive_some(READ_BYTES)))
            return
        raise RequestRefusedError(408, "the body did not come")

    def begin_answer(self, status: int, reason: str, fields: Iterable[tuple[str, str]]) -> None:
        """Its head leaves with what is sent next.

        Without a length the body is sent in chunks, to HTTP/1.0 up to the end.
        """
        if self._http.client_is_waiting_for_100_continue:
            fields = [*fields, ("connection", "close")]  # the body is not wanted, and may come all the same
        event = h11.Response(
            status_code=status,
            reason=reason.encode("latin-1", "replace"),
            headers=[(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in fields],
        )
        self._unsent = self._http.send(event) or b""
        self._head_sent = True

    async def send(self, piece: bytes) -> None:
        """A piece of the body."""
        for part in self._http.send_with_data_passthrough(h11.Data(data=piece)) or []:
            if len(part):
                await self._send(part)

    async def end(self) -> None:
        """The end of the answer.

        Raises:
            h11.LocalProtocolError: it is shorter than was said.
        """
        await self._send(self._http.send(h11.EndOfMessage()) or b"")

    async def send_whole(
        self, status: int, reason: str, fields: Iterable[tuple[str, str]], body: bytes
    ) -> None:
        """A small answer in one piece; to HEAD without its body."""
        length = [] if status == 204 else [("content-length", str(len(body)))]
        self.begin_answer(status, reason, [*fields, *length])
        if not self._wants_head_only and body:
            await self.send(body)
        await self.end()

    async def send_bodiless(self, status: int, reason: str, fields: Iterable[tuple[str, str]]) -> None:
        """An answer that has no body: 304, 412."""
        length = [] if status == 304 else [("content-length", "0")]
        self.begin_answer(status, reason, [*fields, *length])
        await self.end()

    async def _send(self, data: bytes | memoryview) -> None:
        head, self._unsent = self._unsent, b""
        if len(data) <= _JOINED_BYTES:
            data, head = b"".join((head, data)), b""
        for part in filter(len, (head, data)):
            with trio.fail_after(SEND_PATIENCE_S):
                await self.stream.send_all(part)

    async def next_cycle(self) -> bool:
        """Make ready for the next request; False when the connection must end."""
        try:
            await self._drain()
        except (h11.RemoteProtocolError, RequestRefusedError):
            return False
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        unread, _ = self._http.trailing_data
        self._received += unread
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._head_sent = False
        return True

    async def _drain(self) -> None:
        """Read what is left of the request's body, unless it is much."""
        seen = 0
        while self._http.their_state is h11.SEND_BODY and self._http.our_state is h11.DONE:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._receive_more()
            elif isinstance(event, h11.Data):
                seen += len(event.data)
            if seen > _DRAIN_BYTES:
                return
