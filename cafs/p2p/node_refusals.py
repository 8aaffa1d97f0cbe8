"""The one table from our errors to what the node socket answers."""

from __future__ import annotations

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
from cafs.http11.messages import Answer, refusal
from cafs.p2p.source import ForbiddenAddressError

_TABLE: tuple[tuple[type[CafsError], int, str], ...] = (
    (ForbiddenAddressError, 403, "forbidden"),
    (UsageError, 400, "bad_request"),
    (NotFoundError, 404, "unknown"),
    (IntegrityError, 502, "invalid"),
    (AuthError, 502, "unauthorized"),
    (DeadlineError, 504, "unreachable"),
    (RemoteError, 502, "unreachable"),
    (StorageError, 507, "storage"),
    (UnavailableError, 503, "unavailable"),
    (BlockedError, 409, "blocked"),
    (StateError, 409, "state"),
)
"""The first that fits counts."""


def refuse(error: CafsError) -> Answer:
    """An answer that is no success."""
    for kind, status, reason in _TABLE:
        if isinstance(error, kind):
            return refusal(status, str(error), reason)
    return refusal(500, str(error), "internal")
