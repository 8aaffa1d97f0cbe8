"""The one table from errors to what an HTTP client is told."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from cafs.core.proxying.fields import for_client
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.errors import (
    AuthError,
    BlockedError,
    CafsError,
    DeadlineError,
    IntegrityError,
    NotFoundError,
    StorageError,
    UsageError,
)
from cafs.p2p.content import OriginError

_KINDS: tuple[tuple[type[CafsError], int, str], ...] = (
    (DeadlineError, 504, "origin-silent"),
    (IntegrityError, 502, "integrity"),
    (NotFoundError, 404, "not-found"),
    (AuthError, 502, "origin-refuses"),
    (StorageError, 507, "storage"),
    (UsageError, 400, "bad-request"),
    (BlockedError, 403, "refused"),
    (CafsError, 502, "origin-failed"),
)


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A small answer."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def reason(self) -> str:
        """What the status is called."""
        return reason_of(self.status)


def reason_of(status: int) -> str:
    """What a status is called; empty where it is not known."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def answer_for(error: Exception, our_name: str) -> WholeAnswer:
    """What the client is told of a failure. ``X-Cafs-Error`` says that it is ours and not the origin's."""
    if isinstance(error, OriginError):
        return WholeAnswer(error.status, tuple(for_client(error.headers, our_name)), error.body)
    if isinstance(error, RequestRefusedError):
        return _ours(error.status, "refused", str(error))
    for kind, status, word in _KINDS:
        if isinstance(error, kind):
            return _ours(status, word, str(error))
    return _ours(500, "internal", f"unforeseen: {type(error).__name__}")


def _ours(status: int, word: str, message: str) -> WholeAnswer:
    body = f"cafs proxy: {' '.join(message.split())}\n".encode("utf-8", "replace")
    return WholeAnswer(status, (("content-type", "text/plain; charset=utf-8"), ("x-cafs-error", word)), body)
