"""The seam between what is traced and who keeps traces. Pure; without a keeper nothing is spent.

A span is one thing that is done: a download, a piece, a read from a source, a request for chunks. Spans nest
by where they are begun. Attributes hold no address's path or query, no header and no credential: they leave
this host. Implemented by ``cafs.p2p.telemetry``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

TRACEPARENT = "traceparent"
"""The header of W3C's Trace Context (w3.org/TR/trace-context), level 1."""


class Span(Protocol):
    """One that has begun, and ends with its context: as failed when an error leaves it."""

    def note(self, **attributes: str | int | bool) -> None:
        """What was found out on the way."""
        ...

    def fail(self, error: BaseException) -> None:
        """It failed, though no error leaves it. Only the kind of error is told."""
        ...


class Tracer(Protocol):
    """Keeps spans. For one thread."""

    def span(self, name: str, **attributes: str | int | bool) -> AbstractContextManager[Span]:
        """Within the span that is under way here, or the first of a trace."""
        ...

    def continued(
        self, traceparent: str | None, name: str, **attributes: str | int | bool
    ) -> AbstractContextManager[Span]:
        """Within the span of another host that its request names."""
        ...

    def headers(self) -> tuple[tuple[str, str], ...]:
        """For a request to another host: what names the span under way here."""
        ...


class _NoSpan:
    def note(self, **attributes: str | int | bool) -> None:
        """Nothing."""

    def fail(self, error: BaseException) -> None:
        """Nothing."""


class Untraced:
    """Keeps nothing."""

    def __init__(self) -> None:
        self._nothing = nullcontext(_NoSpan())

    def span(self, name: str, **attributes: str | int | bool) -> AbstractContextManager[Span]:
        """See ``Tracer``."""
        return self._nothing

    def continued(
        self, traceparent: str | None, name: str, **attributes: str | int | bool
    ) -> AbstractContextManager[Span]:
        """See ``Tracer``."""
        return self._nothing

    def headers(self) -> tuple[tuple[str, str], ...]:
        """See ``Tracer``."""
        return ()


UNTRACED = Untraced()
