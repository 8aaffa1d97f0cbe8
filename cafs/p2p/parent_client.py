"""Asking other peers' upload servers: pieces, what they have, what they get.

Used by all downloads of the host; connections are kept and shared. Whatever goes wrong is one parent's
failure, a ``ParentError`` that says how; nothing that a parent sends is verified here, but sizes are bounded.
"""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any

import h11
import trio

from cafs.core.json_bound import has_more_values
from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.layout import MAX_PIECES, Bitmap, parse_layout
from cafs.core.swarm.messages import FailReason
from cafs.core.swarm.news import PIECES_IN_LINE, SIGN_OF_LIFE, News
from cafs.core.swarm.task import TaskMeta, replayed
from cafs.core.tracing import UNTRACED, Tracer
from cafs.errors import ProtocolError, RemoteError
from cafs.http11.certificates import Complaints, tls_failure
from cafs.http11.idle import IdleConnections
from cafs.p2p.peer_connection import PeerConnection, connect_peer

log = logging.getLogger(__name__)

CONNECT_S = 3.0
SILENCE_S = 5.0
BRING_S = 30.0
"""For a piece that the parent has to get from the source first."""
HEAR_S = 45.0
"""A parent gives a sign of life every 15 s at least."""
IDLE_S = 30.0
MOST_IDLE, MOST_IDLE_OF_ONE = 256, 8
"""Connections kept for all parents, and for one."""
MAX_LINE_BYTES = 256 << 10
"""Of an announcement: 1024 pieces of at most 80 bytes fit well."""
MAX_META_BYTES = 512 << 10
"""Of a task's description: a bitmap of ``MAX_PIECES`` takes a third of it."""
_MAX_VALUES = 6 * PIECES_IN_LINE
"""Of an announcement: three for each piece, and one for each that is coming."""
DIGEST_BYTES = 32


class ParentError(RemoteError):
    """A parent did not do what it was asked for."""

    def __init__(
        self, message: str, reason: FailReason, retry_after_s: float = 0.0, *, forbidden: bool = False
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.forbidden = forbidden
        """It takes this host for nobody of its cluster."""
        self.retry_after_s = retry_after_s


class ParentClient:
    """Connections to any number of peers."""

    def __init__(self, context: ssl.SSLContext | None = None, tracer: Tracer = UNTRACED) -> None:
        """
        Args:
            context: For mTLS between hosts; None: plain.
            tracer: Hears of pieces that are asked for; parents hear of their traces.
        """
        self._context = context
        self._tracer = tracer
        self._idle: IdleConnections[str, PeerConnection] = IdleConnections(
            IDLE_S, most=MOST_IDLE, most_of_one=MOST_IDLE_OF_ONE
        )
        self._complaints = Complaints()

    def close(self) -> None:
        """Close what is kept."""
        self._idle.close()

    async def fetch_piece(
        self, address: str, task: TaskId, number: int, size: int, *, bring: bool
    ) -> tuple[bytearray, bytes]:
        """The bytes of one piece, not verified; and what the parent says is their digest.

        Args:
            bring: The parent is asked to get it from the source first.

        Raises:
            ParentError: what came instead.
        """
        target = f"/v1/tasks/{task}/pieces/{number}" + ("?bring=1" if bring else "")
        span = self._tracer.span("cafs.piece", task=task, piece=number, bytes=size, parent=address)
        with span, self._translated(address):
            async with self._asked(address, target, BRING_S if bring else SILENCE_S) as (connection, head):
                claimed = dict(head.headers).get(b"x-cafs-digest", b"").decode("latin-1")
                digest = _digest(claimed)
                return await connection.read_exactly(head, size, SILENCE_S), digest

    async def fetch_meta(self, address: str, task: TaskId) -> TaskMeta:
        """What the parent knows of a task's content.

        Raises:
            ParentError: nothing, or nonsense.
        """
        with self._translated(address):
            async with self._asked(address, f"/v1/tasks/{task}", SILENCE_S) as (connection, _):
                body = bytearray()
                with trio.fail_after(SILENCE_S * 2):
                    while data := await connection.read_some():
                        body += data
                        if len(body) > MAX_META_BYTES:
                            raise ProtocolError("too much metadata")
                return _parse_meta(bytes(body))

    async def follow(self, address: str, task: TaskId, heard: Callable[[News], None]) -> None:
        """Call ``heard`` with what the parent has, gets and reads from the origin; returns when it has all.

        Raises:
            ParentError: the stream broke, or nonsense came.
        """
        with self._translated(address):
            async with self._asked(address, f"/v1/tasks/{task}/have", SILENCE_S) as (connection, _):
                rest = bytearray()
                while data := await _some_before(connection, HEAR_S):
                    rest += data
                    *lines, tail = rest.split(b"\n")
                    for line in lines:
                        heard(_parse_announcement(bytes(line)))
                    rest = bytearray(tail)
                    if len(rest) > MAX_LINE_BYTES:
                        raise ProtocolError("a line without end")
                if not connection.reusable:
                    raise ConnectionResetError("the announcements broke off")

    @contextmanager
    def _translated(self, address: str) -> Iterator[None]:
        """All that can go wrong, as one parent's failure; of who does not get on in TLS the log hears."""
        try:
            with _translated(address):
                yield
        except ParentError as e:
            untrusted = self._context is not None and (e.forbidden or tls_failure(e))
            if untrusted and self._complaints.is_due(address, trio.current_time()):
                log.warning("%s", e)
            raise

    @asynccontextmanager
    async def _asked(
        self, address: str, target: str, silence_s: float
    ) -> AsyncIterator[tuple[PeerConnection, h11.Response]]:
        """Ask over a kept connection, or a new one; it is kept when the answer was read to its end."""
        connection, head = await self._ask(address, target, silence_s)
        try:
            if head.status_code != 200:
                raise _refusal(address, head)
            yield connection, head
        except BaseException:
            connection.close()
            raise
        self._keep(address, connection)

    async def _ask(self, address: str, target: str, silence_s: float) -> tuple[PeerConnection, h11.Response]:
        while (kept := self._idle.take(address)) is not None:
            try:
                return kept, await kept.ask(target, silence_s, self._tracer.headers())
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
                kept.close()  # the server closed it just when we asked
            except BaseException:
                kept.close()
                raise
        connection = await connect_peer(address, self._context, CONNECT_S)
        try:
            return connection, await connection.ask(target, silence_s, self._tracer.headers())
        except (OSError, trio.BrokenResourceError) as e:
            connection.close()
            if self._context is not None and not tls_failure(e):
                # In TLS 1.3 a client hears only now that its certificate was not taken, and not why.
                why = "it ends TLS as soon as it has begun, and may not take this host's certificate"
                raise ParentError(f"peer {address}: {why}", FailReason.GONE, forbidden=True) from e
            raise
        except BaseException:
            connection.close()
            raise

    def _keep(self, address: str, connection: PeerConnection) -> None:
        if connection.reusable:
            self._idle.keep(address, connection)
        else:
            connection.close()


async def _some_before(connection: PeerConnection, silence_s: float) -> bytes:
    with trio.fail_after(silence_s):
        return await connection.read_some()


def _refusal(address: str, head: h11.Response) -> ParentError:
    if head.status_code == 503:
        fields = dict(head.headers)
        after = bytes(fields.get(b"retry-after", b"1"))
        return ParentError(
            f"peer {address} is busy", FailReason.REFUSED, float(after) if after.isdigit() else 1.0
        )
    if head.status_code == HTTPStatus.FORBIDDEN:
        why = "this host's certificate is not good for the address that it comes from"
        return ParentError(f"peer {address} refuses this host: {why}", FailReason.GONE, forbidden=True)
    return ParentError(f"peer {address} answered {head.status_code}", FailReason.GONE)


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """All that can go wrong, as one parent's failure."""
    try:
        yield
    except ParentError:
        raise
    except trio.TooSlowError as e:
        raise ParentError(f"peer {address} is too slow", FailReason.SLOW) from e
    except (ProtocolError, h11.ProtocolError) as e:
        raise ParentError(f"peer {address}: {e}", FailReason.CORRUPT) from e
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, UnicodeError) as e:
        raise ParentError(f"peer {address}: {tls_failure(e) or e}", FailReason.GONE) from e


def _parse_announcement(line: bytes) -> News:
    """See ``encode_news``; an empty line is a sign of life. Older peers do not say what is coming."""
    if not line.strip():
        return SIGN_OF_LIFE
    said = _json(line)
    pieces = [_numbered(entry) for entry in _few(said.get("pieces"))]
    coming = said.get("coming")
    return News(pieces, None if coming is None else Bitmap.of(map(_number, _few(coming))))


def _parse_meta(body: bytes) -> TaskMeta:
    said = _json(body)
    length = said.get("content_bytes")
    layout = parse_layout(
        -1 if length is None else _checked(length, int), _checked(said.get("piece_bytes"), int)
    )
    headers = [_header(entry) for entry in _checked(said.get("headers", []), list)]
    return TaskMeta(layout, replayed(tuple(headers)))


def _header(entry: object) -> tuple[str, str]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise ProtocolError("a header is not understood")
    return _checked(entry[0], str), _checked(entry[1], str)


def _few(told: object) -> list[object]:
    entries: list[object] = _checked(told, list)
    if len(entries) > PIECES_IN_LINE:
        raise ProtocolError(f"a line tells of {PIECES_IN_LINE} pieces at most")
    return entries


def _numbered(entry: object) -> tuple[int, bytes]:
    if not isinstance(entry, list) or len(entry) != 2:
        raise ProtocolError("an announcement is not understood")
    return _number(entry[0]), _digest(entry[1])


def _number(said: object) -> int:
    number: int = _checked(said, int)
    if not 0 <= number < MAX_PIECES:
        raise ProtocolError(f"there is no piece {number}")
    return number


def _digest(text: object) -> bytes:
    try:
        digest = bytes.fromhex(_checked(text, str))
    except ValueError:
        digest = b""
    if len(digest) != DIGEST_BYTES:
        raise ProtocolError("a digest is none")
    return digest


def _json(text: bytes) -> dict[str, Any]:
    if has_more_values(text, _MAX_VALUES):
        raise ProtocolError("it says too much at once")
    try:
        return dict(_checked(json.loads(text), dict))
    except (ValueError, RecursionError) as e:
        raise ProtocolError(f"no JSON: {e}") from None


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(f"a {kind.__name__} was expected")
    return value
