"""Bodiless requests straight over own connections: what a mount waits for.

A start makes some hundred small range requests, most of them one after the other, and a general HTTP
client took a millisecond of processor time for each. This one takes a fifth. Used by ``RegistryClient``,
which decides about credentials, redirects and retries; whatever has a body or needs a proxy goes through
``library``.

Any call may be cancelled at any await: its connection is then closed, and nobody else's.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote, urlsplit

import h11
import trio

from cafs.errors import ProtocolError, RemoteError
from cafs.http11.connection import Connection, connect
from cafs.http11.idle import IdleConnections
from cafs.oci.registry.answers import origin_of
from cafs.oci.registry.exchange import KEEPALIVE_S, Patience, one_line

Origin = tuple[str, str, int | None]
Check = Callable[[Origin, str], None]
"""Hears whom is asked, and to which address the name led; raises when nothing may be said there."""
_SAFE = "%/?:@!$&'()*+,;=-._~[]|"
"""Left as they are in an address that somebody else has made: encoding twice would change it."""


class DirectTransport:
    """Connections to any number of servers, kept open between requests."""

    def __init__(
        self,
        patience: Patience,
        connections: int,
        headers: Mapping[str, str],
        check: Check | None = None,
    ) -> None:
        """
        Args:
            patience: Bounds of time.
            connections: At most so many are busy at once, and at most so many are kept.
            headers: Sent with every request.
            check: Called for each connection.
        """
        self._patience = patience
        self._check = check
        self._headers = tuple(headers.items())
        self._room = trio.CapacityLimiter(connections)
        self._idle: IdleConnections[Origin, Connection] = IdleConnections(
            KEEPALIVE_S, most=connections, most_of_one=connections
        )
        self._context: ssl.SSLContext | None = None

    async def send(self, method: str, url: str, headers: Mapping[str, str], what: str) -> DirectExchange:
        """Ask; returns when the head of the answer is here. For methods that may be repeated.

        Raises:
            DeadlineError, ProtocolError, RemoteError: no answer, and why.
        """
        target, fields = self._address(url, headers)
        owner = await self._enter(what)
        exchange = DirectExchange(self, origin_of(url), url, what, owner)
        try:
            with self.translated(what):
                await exchange.ask(method, target, fields, self._patience.stall_s)
        except BaseException:
            exchange.abort()
            raise
        return exchange

    async def _enter(self, what: str) -> object:
        """Wait for room for one more exchange; returns what stands for it."""
        owner = object()
        try:
            self._room.acquire_on_behalf_of_nowait(owner)
        except trio.WouldBlock:
            with trio.move_on_after(self._patience.room_s):
                await self._room.acquire_on_behalf_of(owner)  # noqa: ASYNC120 - nobody misses WouldBlock
                return owner
            raise self._patience.no_room(what) from None
        return owner

    async def aclose(self) -> None:
        """Close the connections that are kept; those in use end with their exchanges."""
        self._idle.close()

    def _address(self, url: str, headers: Mapping[str, str]) -> tuple[str, list[tuple[str, str]]]:
        """The request's target, and its headers."""
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        target = quote(parts.path or "/", safe=_SAFE) + (
            f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
        )
        return target, [("Host", host), *self._headers, *headers.items()]

    def take_kept(self, origin: Origin) -> Connection | None:
        """The connection that was used last and is still good."""
        return self._idle.take(origin)

    async def open_early(self, url: str) -> None:
        """Open a connection to be kept for a request that is soon to come. A failure is none yet."""
        origin = origin_of(url)
        try:
            connection = await self.connect(origin, url)
        except RemoteError:
            return  # whoever asks hears of it
        self._idle.keep(origin, connection)

    def give_back(self, origin: Origin, connection: Connection, owner: object) -> None:
        """The exchange is over; the connection is kept if it is fit for another."""
        self._room.release_on_behalf_of(owner)
        if connection.reset():
            self._idle.keep(origin, connection)
        else:
            connection.close()

    def give_up(self, owner: object, connection: Connection | None) -> None:
        """The exchange ended in the middle."""
        self._room.release_on_behalf_of(owner)
        if connection is not None:
            connection.close()

    def distrust_kept(self, origin: Origin) -> None:
        """A kept connection was silent: what cut it off (a link, a firewall's memory) cut off the others too,
        and each of them would cost somebody the whole wait again."""
        self._idle.drop(origin)

    async def connect(self, origin: Origin, what: str) -> Connection:
        """A new connection."""
        scheme, host, port = origin
        if scheme == "https" and self._context is None:
            # 20 ms for the certificates of all authorities: not before somebody speaks TLS.
            self._context = ssl.create_default_context()
        context = self._context if scheme == "https" else None
        check = partial(self._check, origin) if self._check is not None else None
        try:
            with trio.fail_after(self._patience.connect_s):
                return await connect(host, port or 80, context, check)
        except trio.TooSlowError as e:
            raise self._patience.no_connection(what) from e
        except (OSError, ssl.CertificateError, trio.BrokenResourceError, UnicodeError) as e:
            cause = e.__cause__ if isinstance(e.__cause__, OSError) else e
            raise RemoteError(f"{what}: cannot connect: {one_line(cause)}") from e

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Failures of an exchange as our errors. None of these messages can hold an address."""
        try:
            yield
        except trio.TooSlowError as e:
            raise self._patience.silence(what) from e
        except h11.ProtocolError as e:
            raise ProtocolError(f"{what}: {one_line(e)}") from e
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
            raise RemoteError(f"{what}: {one_line(e)}") from e


class DirectExchange:
    """See ``Exchange``."""

    def __init__(
        self, transport: DirectTransport, origin: Origin, url: str, what: str, owner: object
    ) -> None:
        self._transport = transport
        self._origin = origin
        self._what = what
        self._owner = owner
        self._stall_s = 0.0
        self._connection: Connection | None = None
        self._kept: Connection | None = None
        self._whole = False
        self._over = False
        self.url = url
        self.status = 0
        self.reason = ""
        self.headers: Mapping[str, str] = {}

    async def ask(self, method: str, target: str, fields: Sequence[tuple[str, str]], stall_s: float) -> None:
        """Send the request and wait for the answer's head."""
        self._stall_s = stall_s
        self._connection = self._kept = kept = self._transport.take_kept(self._origin)
        if kept is not None:
            try:
                self._take_head(await kept.ask(method, target, fields, stall_s))
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                if kept.answered:
                    raise
                # The server closed it just when we asked: what everybody who keeps connections must expect.
                kept.close()
            else:
                return
        self._connection = None
        self._connection = await self._transport.connect(self._origin, self._what)
        self._take_head(await self._connection.ask(method, target, fields, stall_s))

    def _take_head(self, head: h11.Response) -> None:
        headers: dict[str, str] = {}
        for name, value in head.headers:
            text, key = value.decode("latin-1"), name.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self.status, self.reason, self.headers = head.status_code, head.reason.decode("latin-1"), headers

    async def receive(self) -> bytes:
        """See ``Exchange``."""
        if self._whole or self._connection is None:
            return b""
        with self._transport.translated(self._what):
            piece = await self._connection.receive(self._stall_s)
        self._whole = not piece
        return piece

    async def aclose(self) -> None:
        """See ``Exchange``. Does not wait for anything."""
        if not self._over and self._connection is not None:
            self._over = True
            self._transport.give_back(self._origin, self._connection, self._owner)

    def abort(self) -> None:
        """There is no answer."""
        self._over = True
        if self._kept is not None and self._kept is self._connection and not self._kept.answered:
            self._transport.distrust_kept(self._origin)
        self._transport.give_up(self._owner, self._connection)
