"""``NodeDistributor``: content through this node's peer, asked over its unix socket (trio).

See ``Distributor``. A connection whose answer was read whole may be kept for the next wish. What is said is
described in the module that answers; an answer before the first byte that is no success is the origin's, when
it carries ``X-Cafs-Origin-Status``, else the peer's own refusal.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from cafs.core.swarm.download_request import DOWNLOAD_PATH, STATUS_PATH, DownloadRequest
from cafs.errors import (
    AuthError,
    BlockedError,
    CafsError,
    DeadlineError,
    IntegrityError,
    NotFoundError,
    RemoteError,
    StateError,
    StorageError,
    UnavailableError,
    UsageError,
)
from cafs.http11.connection import connect_unix
from cafs.http11.pool import AwayError, ConnectionPool, OpenAnswer
from cafs.oci.registry.answers import parse_content_range
from cafs.p2p.content import Headers, OriginError, Wish

_SENT = (("Content-Type", "application/json"),)
_MAX_REFUSAL_BYTES = 1 << 20
_STALL_S = 120.0
"""The peer has deadlines of its own towards parents and origin, which add up."""
_DOUBT_S, _ALIVE_S = 10.0, 5.0
"""After so long a peer is asked whether it answers at all, and has so long to do it."""
_MOST_STATUS_BYTES = 64 << 20


def usual_node_socket(run_dir: Path) -> Path:
    """Where a peer listens unless it is told something else."""
    return run_dir / "peer" / "peer.sock"


def encode_wish(wish: Wish) -> bytes:
    """The body of ``POST /v1/download``."""
    return DownloadRequest(
        url=wish.url,
        digest=wish.digest,
        tag=wish.tag,
        application=wish.application,
        filtered_query=wish.filtered_query,
        headers=wish.headers,
        priority=wish.priority,
        bytes_per_s=wish.bytes_per_s,
        first_byte=wish.first_byte,
        last_byte=wish.last_byte,
    ).encode()


def parse_refusal(status: int, body: bytes) -> CafsError:
    """The peer's own no, as the error that it was there: see ``node_refusals``."""
    try:
        document = json.loads(body)
        message, reason = str(document["error"]), str(document["reason"])
    except (ValueError, KeyError, TypeError, RecursionError):
        message, reason = f"the peer answered {status}", ""
    kind = DeadlineError if status == HTTPStatus.GATEWAY_TIMEOUT else _KINDS.get(reason, RemoteError)
    error = kind(message)
    if isinstance(error, RemoteError):
        error.given_up = True
    return error


_KINDS: dict[str, type[CafsError]] = {
    "bad_request": UsageError,
    "unknown": NotFoundError,
    "invalid": IntegrityError,
    "unauthorized": AuthError,
    "storage": StorageError,
    "unavailable": UnavailableError,
    "blocked": BlockedError,
    "forbidden": BlockedError,
    "state": StateError,
}


class NodeDistributor:
    """See the module."""

    def __init__(self, socket_path: Path, *, most_kept: int = 0) -> None:
        """``most_kept``: connections that are kept; whoever wants some calls ``close`` at the end."""
        self._path = socket_path
        self._pool = ConnectionPool(
            "this node's peer", "peer", partial(connect_unix, str(socket_path)), most_kept=most_kept
        )

    def close(self) -> None:
        """Let go of idle connections."""
        self._pool.close()

    async def is_there(self) -> bool:
        """Whether a peer listens."""
        try:
            stream = await trio.open_unix_socket(str(self._path))
        except OSError:
            return False
        await stream.aclose()
        return True

    async def open(self, wish: Wish) -> NodeContent:
        """See ``Distributor``.

        Raises:
            UnavailableError: no peer listens, or it ended, hangs or talks nonsense before it had said
                anything of the content.
        """
        try:
            answer = await self._ask(wish)
        except RemoteError as e:
            raise UnavailableError(f"no peer answers on {self._path}: {e}") from e
        try:
            if answer.status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
                raise await self._refusal(answer)
            return NodeContent(answer, wish)
        except BaseException:
            answer.close()
            raise

    async def _ask(self, wish: Wish) -> OpenAnswer:
        """What the peer says, as long as it is alive."""
        answered: OpenAnswer | None = None
        failure: CafsError | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, nursery.cancel_scope)
                try:
                    answered = await self._pool.open(
                        "POST", DOWNLOAD_PATH, body=encode_wish(wish), headers=_SENT, stall_s=_STALL_S
                    )
                except CafsError as e:
                    failure = e
                nursery.cancel_scope.cancel()
        except BaseException:  # cancelled just then
            if answered is not None:
                answered.close()
            raise
        if answered is None:
            raise failure or AwayError("it listens and does nothing")
        return answered

    async def _watch(self, waiting: trio.CancelScope) -> None:
        """End the waiting for a peer that hangs: one that is only slow says how it is."""
        while True:
            await trio.sleep(_DOUBT_S)
            try:
                await self._pool.ask("GET", STATUS_PATH, most_bytes=_MOST_STATUS_BYTES, stall_s=_ALIVE_S)
            except (AwayError, DeadlineError):
                waiting.cancel()
                return
            except RemoteError:
                pass  # it said something

    async def _refusal(self, answer: OpenAnswer) -> CafsError:
        """The origin's no, or the peer's own."""
        try:
            body = await _read_refusal(answer)
        except RemoteError as e:
            return UnavailableError(f"no peer answers on {self._path}: {e}")
        if (status := dict(answer.headers).get("x-cafs-origin-status", "")).isdecimal():
            told = tuple(field for field in answer.headers if field[0] != "x-cafs-origin-status")
            return OriginError(f"the origin answered {status}", int(status), told, body)
        return parse_refusal(answer.status, body)


async def _read_refusal(answer: OpenAnswer) -> bytes:
    body = bytearray()
    while len(body) <= _MAX_REFUSAL_BYTES and (piece := await answer.receive()):
        body += piece
    return bytes(body)


class NodeContent:
    """See ``Content``."""

    def __init__(self, answer: OpenAnswer, wish: Wish) -> None:
        self._answer = answer
        self._wish = wish
        self.status = answer.status
        self.headers: Headers = answer.headers
        self.content_bytes: int | None = None
        self.first_byte = wish.first_byte
        self.last_byte: int | None = wish.last_byte
        self._take_lengths()

    def _take_lengths(self) -> None:
        fields = dict(self.headers)
        if found := parse_content_range(fields.get("content-range", "")):
            self.first_byte, self.last_byte, self.content_bytes = found.first, found.last, found.total
        elif (length := fields.get("content-length")) is not None:
            self.last_byte = self.first_byte + int(length) - 1
            if self._wish.last_byte is None or self.last_byte < 0:  # not even a first byte
                self.content_bytes = self.last_byte + 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self._answer.receive():
            return piece
        raise StopAsyncIteration
