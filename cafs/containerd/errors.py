"""What containerd's answers mean to us: the one table from gRPC statuses to our errors."""

from __future__ import annotations

import grpc

from cafs.errors import (
    AuthError,
    CafsError,
    DeadlineError,
    NotFoundError,
    ProtocolError,
    RemoteError,
    StateError,
    StorageError,
)


class AlreadyThereError(StateError):
    """What was to be made is there already."""


class BusyError(RemoteError):
    """Somebody else is at it just now, or containerd (or a plugin of it) does not answer."""


_KINDS: dict[grpc.StatusCode, type[CafsError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyThereError,
    grpc.StatusCode.FAILED_PRECONDITION: StateError,
    grpc.StatusCode.UNAVAILABLE: BusyError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.PERMISSION_DENIED: AuthError,
    grpc.StatusCode.UNAUTHENTICATED: AuthError,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolError,
    grpc.StatusCode.INVALID_ARGUMENT: ProtocolError,
    grpc.StatusCode.OUT_OF_RANGE: ProtocolError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: StorageError,
}


def error_of(status: grpc.StatusCode, details: str, what: str) -> CafsError:
    """The error for one answer; ``what`` names the call."""
    kind = _KINDS.get(status, RemoteError)
    return kind(f"{what}: {' '.join(details.split())[:500] or status.name.lower()}")
