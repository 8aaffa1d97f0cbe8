"""Requests to one server over connections that are kept; answers come whole and bounded, or piece by piece.

Used for the node socket and between peers. Any call may be cancelled at any await: its connection is then
closed, which tells the server that nobody waits any more.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import h11
import trio

from cafs.errors import DeadlineError, ProtocolError, RemoteError
from cafs.http11.connection import Connection
from cafs.http11.messages import Headers

KEPT_S = 30.0
"""Less than servers keep an idle connection."""

Open = Callable[[], Awaitable[Connection]]


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """By name in small letters."""
    body: bytes


class Pace(Protocol):
    """When bodies are taken from their sockets; what is not taken keeps its sender from sending more."""

    def body(self) -> AbstractAsyncContextManager[None]:
        """Entered to take a body, left at its end."""
        ...

    async def part(self, count: int) -> None:
        """So many bytes of it came last (0: nothing yet); wait until the next part may be taken."""
        ...


class AsItComes:
    """A ``Pace``: at once."""

    @asynccontextmanager
    async def body(self) -> AsyncIterator[None]:
        """See ``Pace``."""
        yield

    async def part(self, count: int) -> None:
        """See ``Pace``."""


AS_IT_COMES = AsItComes()


class AwayError(RemoteError):
    """There is nobody to talk to."""


class ConnectionPool:
    """Connections to one server."""

    def __init__(
        self, name: str, host: str, open_one: Open, *, most_kept: int = 8, pace: Pace = AS_IT_COMES
    ) -> None:
        """
        Args:
            name: Of the server, for messages.
            host: For the header Host.
            open_one: Connects.
            most_kept: Idle connections.
            pace: At which bodies are taken.
        """
        self._name = name
        self._host = host
        self._open = open_one
        self._most_kept = most_kept
        self._pace = pace
        self._kept: list[Connection] = []

    async def ask(
        self,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Headers = (),
        most_bytes: int,
        stall_s: float,
    ) -> Answered:
        """Ask, and read the whole answer.

        Raises:
            ProtocolError: the answer is longer than ``most_bytes``.
            RemoteError: as ``open``.
        """
        answer = await self.open(method, target, body=body, headers=headers, stall_s=stall_s)
        try:
            pace = AS_IT_COMES if dict(answer.headers).get("content-length") == "0" else self._pace
            async with pace.body():
                whole = await self._take_body(answer, most_bytes, pace)
        finally:
            answer.close()
        return Answered(answer.status, dict(answer.headers), whole)

    async def _take_body(self, answer: OpenAnswer, most_bytes: int, pace: Pace) -> bytes:
        parts: list[bytes] = []
        size = 0
        await pace.part(0)
        while part := await answer.receive():
            parts.append(part)
            size += len(part)
            if size > most_bytes:
                raise ProtocolError(f"{self._name}: an answer of more than {most_bytes} bytes")
            await pace.part(len(part))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def open(
        self, method: str, target: str, *, body: bytes = b"", headers: Headers = (), stall_s: float
    ) -> OpenAnswer:
        """Ask; returns when the head of the answer is here. Whoever gets it closes it.

        Raises:
            AwayError: no connection can be made.
            DeadlineError: the server was silent for ``stall_s``.
            ProtocolError: its answer is none.
            RemoteError: the connection broke.
        """
        fields = [("Host", self._host), ("Content-Length", str(len(body))), *headers]
        with self.translated(stall_s):
            while (kept := self._take()) is not None:
                try:
                    return await self._begin(kept, method, target, fields, body, stall_s)
                except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                    if kept.answered:
                        raise
                    # Closed just when we asked, as any server may: nothing was done.
            connection = await self._connect(stall_s)
            return await self._begin(connection, method, target, fields, body, stall_s)

    async def _begin(  # noqa: PLR0917 - private, and each is handed on
        self,
        connection: Connection,
        method: str,
        target: str,
        fields: list[tuple[str, str]],
        body: bytes,
        stall_s: float,
    ) -> OpenAnswer:
        try:
            head = await connection.ask(method, target, fields, stall_s, body)
        except BaseException:
            connection.close()
            raise
        return OpenAnswer(self, connection, head, stall_s)

    @contextmanager
    def translated(self, stall_s: float) -> Iterator[None]:
        """Failures of an exchange as our errors."""
        try:
            yield
        except trio.TooSlowError:
            raise DeadlineError(f"{self._name} has not answered within {stall_s:g} s") from None
        except h11.ProtocolError as e:
            raise ProtocolError(f"{self._name}: {e}") from e
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as e:
            raise RemoteError(f"{self._name}: the connection broke: {e}") from e

    def give_back(self, connection: Connection) -> None:
        """The exchange is over; the connection is kept if it is fit for another."""
        if len(self._kept) < self._most_kept and connection.reset():
            connection.idle_since = trio.current_time()
            self._kept.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Let go of idle connections."""
        while self._kept:
            self._kept.pop().close()

    def _take(self) -> Connection | None:
        while self._kept:
            connection = self._kept.pop()
            if connection.idle_since + KEPT_S > trio.current_time() and connection.is_alive():
                return connection
            connection.close()
        return None

    async def _connect(self, stall_s: float) -> Connection:
        try:
            with trio.fail_after(stall_s):
                return await self._open()
        except (
            OSError,
            ssl.CertificateError,
            trio.BrokenResourceError,
            trio.TooSlowError,
            UnicodeError,
        ) as e:
            raise AwayError(f"{self._name} cannot be reached: {type(e).__name__} {e}") from e


class OpenAnswer:
    """An answer whose head is here and whose body is still to be read."""

    def __init__(
        self, pool: ConnectionPool, connection: Connection, head: h11.Response, stall_s: float
    ) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self._stall_s = stall_s
        self._whole = False
        self.status = head.status_code
        self.headers: Headers = tuple((n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers)
        """Names in small letters."""

    async def receive(self) -> bytes:
        """The next piece of the body, empty at its end; raises as ``ConnectionPool.open``."""
        if self._whole or self._connection is None:
            return b""
        with self._pool.translated(self._stall_s):
            piece = await self._connection.receive(self._stall_s)
        self._whole = not piece
        return piece

    def close(self) -> None:
        """The end; does not wait. An answer that was not read whole takes its connection along."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)
