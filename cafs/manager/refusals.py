"""Errors that only the manager knows, and the one table from errors to answers of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import Any

from cafs.errors import (
    CafsError,
    ExistsError,
    NotFoundError,
    StateError,
    UnavailableError,
    UsageError,
)

_MOST_TOLD, _LETTERS_TOLD = 100, 300
"""Of what is wrong with one request, so that an answer is not ten times as large as what was sent."""


class UnauthenticatedError(CafsError):
    """Nobody whom we know asks: no token, or one that is wrong, expired or revoked."""


class DeniedError(CafsError):
    """Whoever asks may not."""


class ThrottledError(CafsError):
    """Too many wrong guesses came from there."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnconditionalError(CafsError):
    """A change without If-Match: whoever makes it does not say what he has seen."""


class ConflictError(StateError):
    """It was changed meanwhile."""

    def __init__(self, message: str, etag: str, differs: Mapping[str, Any]) -> None:
        """``differs``: of each field that is not what was sent, what it is and what it should become."""
        super().__init__(message)
        self.etag = etag
        self.differs = differs


class InvalidError(UsageError):
    """Some fields are not what they must be: each of the first ones with what is wrong.

    Fields that nobody knows are named as they were sent: in any number, of any length, with half a surrogate.
    """

    def __init__(self, wrong: Mapping[str, str]) -> None:
        first = islice(wrong.items(), _MOST_TOLD)
        self.wrong = {_tellable(name): _tellable(why) for name, why in first}
        more = f"; and {len(wrong) - _MOST_TOLD} more" if len(wrong) > _MOST_TOLD else ""
        super().__init__("; ".join(f"{name}: {why}" for name, why in self.wrong.items()) + more)


def _tellable(text: str) -> str:
    return text[:_LETTERS_TOLD].encode(errors="replace").decode()


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer that is no success: RFC 9457."""

    status: HTTPStatus
    kind: str
    """One word, which programs may rely on; the end of ``type``."""
    detail: str
    more: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "type": f"urn:cafs:problem:{self.kind}",
            "title": self.status.phrase,
            "status": self.status.value,
            "detail": self.detail,
            **self.more,
        }


_PLAIN: tuple[tuple[type[CafsError], HTTPStatus, str], ...] = (
    (DeniedError, HTTPStatus.FORBIDDEN, "denied"),
    (UnconditionalError, HTTPStatus.PRECONDITION_REQUIRED, "precondition"),
    (NotFoundError, HTTPStatus.NOT_FOUND, "unknown"),
    (ExistsError, HTTPStatus.CONFLICT, "exists"),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid"),
    (StateError, HTTPStatus.CONFLICT, "state"),
)


def problem_of(error: CafsError) -> Problem:
    """What a client is told."""
    match error:
        case UnauthenticatedError():
            return Problem(
                HTTPStatus.UNAUTHORIZED, "unauthenticated", str(error), headers={"WWW-Authenticate": "Bearer"}
            )
        case ThrottledError():
            wait = str(max(1, round(error.retry_after_s)))
            return Problem(
                HTTPStatus.TOO_MANY_REQUESTS, "throttled", str(error), headers={"Retry-After": wait}
            )
        case ConflictError():
            more = {"etag": error.etag, "differs": dict(error.differs)}
            return Problem(HTTPStatus.CONFLICT, "conflict", str(error), more)
        case InvalidError():
            errors = [{"field": name, "message": why} for name, why in error.wrong.items()]
            return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", str(error), {"errors": errors})
    for kind, status, word in _PLAIN:
        if isinstance(error, kind):
            headers = {"Retry-After": "5"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
            return Problem(status, word, str(error), headers=headers)
    return Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "a mistake in the manager: its log says more"
    )
