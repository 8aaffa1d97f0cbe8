"""What somebody wants, and how they get it: the seam between the engine and its clients.

Implemented by the engine, by the node socket's client and by the straight way to the origin; used by the
proxy and ``cafs get``, which cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from cafs.core.digest import Digest
from cafs.core.swarm.priorities import USUAL
from cafs.errors import RemoteError, UnavailableError

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One content, or a range of it."""

    url: str
    digest: Digest | None = None
    tag: str = ""
    application: str = ""
    filtered_query: tuple[str, ...] = ()
    headers: Headers = ()
    """For the origin only; never leaves this host otherwise."""
    priority: int = USUAL
    bytes_per_s: int = 0
    """No faster than so, while nobody else wants it faster; 0: as fast as it can."""
    first_byte: int = 0
    last_byte: int | None = None
    """Inclusive; None: up to the end."""


class OriginError(RemoteError):
    """The origin answered, and its answer is no: to be passed through whole."""

    def __init__(self, message: str, status: int, headers: Headers, body: bytes) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = body


class NotSharedError(UnavailableError):
    """The origin lets nobody share it: whoever wants it asks there himself."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"its origin does not let hosts share it ({why})")


class Content(Protocol):
    """An open answer. An async context manager; leaving it early ends the wish."""

    @property
    def status(self) -> int:
        """Of the origin's answer."""
        ...

    @property
    def headers(self) -> Headers:
        """Of the origin's answer, names in small letters."""
        ...

    @property
    def content_bytes(self) -> int | None:
        """Of the whole content; None: nobody knows yet."""
        ...

    @property
    def first_byte(self) -> int: ...

    @property
    def last_byte(self) -> int | None:
        """Inclusive; None: not known yet."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Verified bytes in order, in pieces of any size."""
        ...


class Distributor(Protocol):
    """Where content comes from. May be used concurrently."""

    async def open(self, wish: Wish) -> Content:
        """Begin; returns when it is known that there is something to read.

        Raises:
            OriginError: the origin's answer is no.
            CafsError: there is no answer, and why.
        """
        ...
