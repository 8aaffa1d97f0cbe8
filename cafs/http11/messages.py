"""What a server is asked and what it answers, and how much of either it takes. Pure."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl

JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds of one listening socket."""

    connections: int = 256
    client_connections: int = 256
    """Of one address; more are closed at once. Means nothing on a unix socket, where all have one address."""
    head_bytes: int = 16 << 10
    body_bytes: int = 256 << 10
    """Of a request."""
    request_s: float = 30.0
    """For a whole request to arrive once it has begun, and for a TLS handshake."""
    idle_s: float = 75.0
    """How long a connection may wait for its next request."""
    send_s: float = 30.0
    """For a client to take the next ``SLICE_BYTES`` of an answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One whole request."""

    method: str
    path: str
    """As it was sent, still encoded, without the query."""
    body: bytes
    query: str = ""
    headers: Headers = ()
    """Names in small letters."""
    client: str = ""
    """The address without the port; empty on a unix socket."""

    def header(self, name: str) -> str | None:
        """The first header of this name (in small letters)."""
        return next((value for key, value in self.headers if key == name), None)

    def parameter(self, name: str) -> str | None:
        """The first value of a parameter in the query."""
        return next((v for k, v in parse_qsl(self.query, keep_blank_values=True) if k == name), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    body: bytes | memoryview
    content_type: str = JSON_TYPE
    headers: Headers = ()


Send = Callable[[bytes | memoryview], Awaitable[None]]
"""Sends a piece of a body; raises trio's errors when the client has left or is too slow."""


class Reply(Protocol):
    """The way back to who asked: one answer, by one of the two methods."""

    @property
    def begun(self) -> bool:
        """Some of an answer may have been sent."""
        ...

    async def send(self, answer: Answer) -> None:
        """Answer at once."""
        ...

    def stream(
        self, status: int, content_bytes: int | None, content_type: str = BYTES_TYPE, headers: Headers = ()
    ) -> AbstractAsyncContextManager[Send]:
        """Answer with a body that comes piece by piece: ``content_bytes`` in all, or in chunks for None.

        An exception inside breaks the connection off, so that nobody takes a part for the whole.
        """
        ...


Handler = Callable[[Request, Reply], Awaitable[None]]
"""Answers one request through its reply. Called concurrently, and cancelled when its client leaves."""


def encode_refusal(message: str, reason: str) -> bytes:
    """The body of every answer that is no success: one line for people, a word for machines."""
    return (
        json.dumps({"error": " ".join(message.split()), "reason": reason}, ensure_ascii=False).encode()
        + b"\n"
    )


def refusal(status: int, message: str, reason: str, headers: Headers = ()) -> Answer:
    """An answer that is no success."""
    return Answer(status, encode_refusal(message, reason), JSON_TYPE, headers)
