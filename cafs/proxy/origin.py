"""Requests to origins: guarded connections, kept open between requests (trio, h11).

``Origins`` resolves a name itself, and connects only to addresses that the guard lets pass, so that a name
that resolves to something else the next time cannot lead anywhere. It follows no redirects and
knows no rules. Any call may be cancelled at any await; its connection is then closed.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import h11
import trio

from cafs.core.proxying.address import Address, Authority
from cafs.core.proxying.guard import Guard
from cafs.core.proxying.head import Field
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.core.settings import Settings
from cafs.errors import DeadlineError, ProtocolError, RemoteError, leading_error
from cafs.http11.idle import IdleConnections

READ_BYTES = 256 << 10
MAX_HEAD_BYTES = 256 << 10
"""Of an answer: origins are allowed more than clients."""
_KEPT, _KEPT_PER_ORIGIN = 256, 16
_KEPT_S = 30.0
_PASSED_S, _MAX_PASSED = 60.0, 1000
_RESOLVE_S = 1.0
"""For a name that somebody else will be sent to: he looks again."""
_REPEATABLE = frozenset(("GET", "HEAD", "OPTIONS"))
_WITH_BODIES = frozenset(("POST", "PUT", "PATCH"))
"""Other bodies have no meaning, and some origins leave them lying: as the next request, of another client."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the steps may take, in seconds."""

    connect_s: float = 10.0
    stall_s: float = 20.0
    """Silence of the origin within an answer."""
    answer_s: float = 60.0
    """Silence before the answer: some think for long."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Patience:
        """As the user configured."""
        return cls(settings.connect_timeout_s, settings.stall_timeout_s, settings.read_deadline_s)


@dataclass(slots=True)
class OriginRequest:
    """What is asked."""

    method: str
    address: Address
    fields: Sequence[Field]
    """With Host first; without a length, which ``body_bytes`` says."""
    body: AsyncIterator[bytes] | None = None
    body_bytes: int | None = 0
    """None: of unknown length, sent in chunks."""

    @property
    def framed(self) -> list[Field]:
        """The fields with what frames the body."""
        if self.body is None:
            return list(self.fields)
        if self.body_bytes is None:
            return [*self.fields, ("transfer-encoding", "chunked")]
        return [*self.fields, ("content-length", str(self.body_bytes))]


class Origins:
    """Connections to any number of origins."""

    def __init__(self, guard: Guard, patience: Patience, context: ssl.SSLContext | None = None) -> None:
        """``context`` verifies origins in TLS; by default as the system does."""
        self._guard = guard
        self._patience = patience
        self._context = context
        self._idle: IdleConnections[tuple[str, Authority], OriginConnection] = IdleConnections(
            _KEPT_S, most=_KEPT, most_of_one=_KEPT_PER_ORIGIN
        )
        self._passed: OrderedDict[Authority, float] = OrderedDict()
        """Until when it is not looked again where a name leads."""

    async def ask(self, request: OriginRequest) -> OriginAnswer:
        """Send a request; returns when the head of the answer is here.

        Raises:
            RequestRefusedError: the address must not be asked.
            DeadlineError, ProtocolError, RemoteError: no answer, and why. No message holds path or query.
        """
        key = request.address.origin
        kept = self._idle.take(key)
        if kept is not None and request.method in _REPEATABLE and request.body is None:
            answer = await self._ask_kept(kept, request)
            if answer is not None:
                return answer
            kept = None
        connection = kept or await self.connect(request.address)
        return await self._ask_on(connection, request)

    async def _ask_kept(self, connection: OriginConnection, request: OriginRequest) -> OriginAnswer | None:
        """None when the origin closed the connection just when it was used again."""
        try:
            return await self._ask_on(connection, request)
        except (RemoteError, ProtocolError) as e:
            if connection.answered or isinstance(e, DeadlineError):
                raise
            return None

    async def _ask_on(self, connection: OriginConnection, request: OriginRequest) -> OriginAnswer:
        try:
            with translated(str(request.address.authority)):
                head = await connection.ask(request, self._patience)
        except BaseException:
            connection.close()
            raise
        return OriginAnswer(self, request.address, connection, head, self._patience.stall_s)

    async def connect(self, address: Address) -> OriginConnection:
        """A new connection; raises as ``ask``."""
        stream = await self.connect_to(address.authority)
        if address.scheme == "http":
            return OriginConnection(stream, stream.socket)
        return OriginConnection(await self._secure(stream, address.authority), stream.socket)

    async def connect_to(self, authority: Authority) -> trio.SocketStream:
        """A plain connection, to an address that the guard lets pass; raises as ``ask``."""
        try:
            with trio.fail_after(self._patience.connect_s):
                return await self._connect_any(authority, await _resolve(authority))
        except trio.TooSlowError as e:
            raise DeadlineError(f"{authority}: no connection within {self._patience.connect_s:g} s") from e

    async def check(self, authority: Authority) -> None:
        """Whether the guard lets anybody be sent there; a name that leads nowhere now passes.

        For who has this node's peer ask, which looks itself where it connects to.

        Raises:
            RequestRefusedError: it does not.
        """
        if self._passed.get(authority, 0.0) > trio.current_time():
            return
        addresses: list[str] = []
        with trio.move_on_after(_RESOLVE_S), suppress(RemoteError):
            addresses = await _resolve(authority)
        refusals = [self._guard.refusal(authority, address) for address in addresses]
        if addresses and all(refusals):
            raise RequestRefusedError(403, refusals[0] or "")
        self._passed[authority] = trio.current_time() + _PASSED_S
        self._passed.move_to_end(authority)
        if len(self._passed) > _MAX_PASSED:
            self._passed.popitem(last=False)

    async def _connect_any(self, authority: Authority, addresses: Sequence[str]) -> trio.SocketStream:
        refusals = {address: self._guard.refusal(authority, address) for address in addresses}
        allowed = [address for address, refusal in refusals.items() if refusal is None]
        if not allowed:
            raise RequestRefusedError(403, next(filter(None, refusals.values()), "no address"))
        failure: OSError | None = None
        for number, address in enumerate(allowed):
            last = number == len(allowed) - 1
            try:
                # An address that does not answer must leave time for the others.
                with trio.move_on_after(
                    float("inf") if last else self._patience.connect_s / 2 ** (number + 1)
                ):
                    return await trio.open_tcp_stream(address, authority.port)
            except OSError as e:
                failure = e
        cause = failure.__cause__ or failure if failure else "no answer"
        raise RemoteError(f"{authority}: cannot connect: {' '.join(str(cause).split())[:200]}") from failure

    async def _secure(
        self, stream: trio.SocketStream, authority: Authority
    ) -> trio.SSLStream[trio.SocketStream]:
        if self._context is None:
            self._context = ssl.create_default_context()
        secure = trio.SSLStream(stream, self._context, server_hostname=authority.host, https_compatible=True)
        try:
            with translated(str(authority)), trio.fail_after(self._patience.connect_s):
                await secure.do_handshake()
        except BaseException:
            stream.socket.close()
            raise
        return secure

    def give_back(self, address: Address, connection: OriginConnection) -> None:
        """The exchange is over; the connection is kept if it is fit for another."""
        if connection.reset():
            self._idle.keep(address.origin, connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections that are kept."""
        self._idle.close()


class OriginConnection:
    """One connection; used by one exchange at a time."""

    def __init__(self, stream: trio.abc.Stream, plain: trio.socket.SocketType) -> None:
        self._stream = stream
        self._socket = plain
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._is_read_out = True
        """Nothing that was sent can still be unread there."""
        self.answered = False

    async def ask(self, request: OriginRequest, patience: Patience) -> h11.Response:
        """Send, with the body if there is one, until the answer's head is here."""
        self.answered = False
        self._is_read_out = request.body is None or request.method in _WITH_BODIES
        head = h11.Request(
            method=request.method,
            target=request.address.target,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.framed],
        )
        message = self._http.send(head)
        if request.body is None:
            message += self._http.send(h11.EndOfMessage())
        with trio.fail_after(patience.stall_s):
            await self._stream.send_all(message)
        if request.body is None:
            return await self._receive_head(patience.answer_s)
        return await self._exchange_body(request.body, patience)

    async def _exchange_body(self, body: AsyncIterator[bytes], patience: Patience) -> h11.Response:
        """Send the body and listen meanwhile: an origin may refuse it before it has it all."""
        heads: list[h11.Response] = []

        async def listen(nursery: trio.Nursery) -> None:
            heads.append(await self._receive_head(None))
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen, nursery)
                await self._send_body(body, patience.stall_s)
                # Only now does the origin's time begin to count.
                nursery.cancel_scope.deadline = trio.current_time() + patience.answer_s
        except BaseExceptionGroup as group:
            raise leading_error(group) from group
        if not heads:
            raise trio.TooSlowError
        return heads[0]

    async def _send_body(self, body: AsyncIterator[bytes], stall_s: float) -> None:
        async for piece in body:
            with trio.fail_after(stall_s):
                await self._stream.send_all(self._http.send(h11.Data(data=piece)) or b"")
        await self._stream.send_all(self._http.send(h11.EndOfMessage()) or b"")

    async def _receive_head(self, within_s: float | None) -> h11.Response:
        while True:
            event = await self._next_event(float("inf") if within_s is None else within_s)
            if isinstance(event, h11.Response):
                return event

    async def receive(self, stall_s: float) -> bytes:
        """The next piece of the answer's body, empty at its end."""
        event = await self._next_event(stall_s)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _next_event(self, within_s: float) -> h11.Event:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("closed without an answer")
            if event is not h11.NEED_DATA:
                assert isinstance(event, h11.Event), event
                return event
            with trio.fail_after(within_s):
                data = await self._stream.receive_some(READ_BYTES)
            self.answered = self.answered or bool(data)
            self._http.receive_data(bytes(data))

    def reset(self) -> bool:
        """Make ready for the next request; False when the connection is not fit for one."""
        try:
            if self._http.their_state is h11.SEND_BODY:
                self._http.next_event()
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return False
            if self._http.trailing_data[0]:
                return False  # nobody asked for that; it would be taken for the next answer
            if not self._is_read_out:
                return False
            self._http.start_next_cycle()
        except h11.ProtocolError:
            return False
        return True

    def is_alive(self) -> bool:
        """Whether the origin has neither closed the idle connection nor said anything."""
        readable = select.poll()
        readable.register(self._socket.fileno(), select.POLLIN)
        return not readable.poll(0)

    def close(self) -> None:
        """Now, without a word to the origin."""
        self._socket.close()


@dataclass
class OriginAnswer:
    """An answer whose head is here and whose body is still to be read; whoever got it closes it."""

    _origins: Origins
    address: Address
    _connection: OriginConnection
    _head: h11.Response
    _stall_s: float
    _whole: bool = False
    _over: bool = False
    status: int = field(init=False)
    reason: str = field(init=False)
    fields: list[Field] = field(init=False)
    """In the order of their coming, names in small letters."""

    def __post_init__(self) -> None:
        self.status = self._head.status_code
        self.reason = self._head.reason.decode("latin-1")
        self.fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in self._head.headers]

    def get(self, name: str) -> str | None:
        """The first field of this name."""
        return next((value for key, value in self.fields if key == name), None)

    async def receive(self) -> bytes:
        """The next piece of the body, empty at its end; raises as ``Origins.ask``."""
        if self._whole:
            return b""
        with translated(str(self.address.authority)):
            piece = await self._connection.receive(self._stall_s)
        self._whole = not piece
        return piece

    async def receive_all(self, limit: int) -> bytes:
        """The rest of the body, cut off behind ``limit`` bytes."""
        body = bytearray()
        while len(body) < limit and (piece := await self.receive()):
            body += piece
        return bytes(body[:limit])

    def close(self) -> None:
        """The end. A body that was read whole leaves its connection to others. Does not wait."""
        if not self._over:
            self._over = True
            self._origins.give_back(self.address, self._connection)


async def _resolve(authority: Authority) -> list[str]:
    try:
        found = await trio.socket.getaddrinfo(authority.host, authority.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as e:
        raise RemoteError(f"{authority.host}: no such host") from e
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@contextmanager
def translated(who: str) -> Iterator[None]:
    """Failures of an exchange as our errors. No message holds an address's path or query."""
    try:
        yield
    except trio.TooSlowError as e:
        raise DeadlineError(f"{who}: silent for too long") from e
    except h11.ProtocolError as e:
        raise ProtocolError(f"{who}: {' '.join(str(e).split())[:200]}") from e
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
        cause = e.__cause__ if isinstance(e.__cause__, OSError) else e
        raise RemoteError(f"{who}: {' '.join(str(cause).split())[:200] or 'connection broken'}") from e
