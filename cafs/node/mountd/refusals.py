"""The one table from our errors to what a client of the control socket gets."""

from __future__ import annotations

from cafs.control_socket.protocol import Reason, RefusedError
from cafs.errors import (
    AuthError,
    CafsError,
    IntegrityError,
    NotFoundError,
    RemoteError,
    StorageError,
    UntrustedError,
    UsageError,
)

_REASONS: tuple[tuple[type[CafsError], Reason], ...] = (
    (UsageError, Reason.BAD_REQUEST),
    (NotFoundError, Reason.NOT_CONVERTED),
    (IntegrityError, Reason.INVALID),
    (UntrustedError, Reason.UNTRUSTED),
    (AuthError, Reason.UNAUTHORIZED),
    (RemoteError, Reason.UNREACHABLE),
    (StorageError, Reason.STORAGE),
)


def reason_of(error: CafsError) -> Reason:
    """Why, for machines."""
    if isinstance(error, RefusedError):
        return error.reason
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.INTERNAL)
