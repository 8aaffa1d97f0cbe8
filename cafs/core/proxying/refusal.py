"""Why a client's request is not served: what every parser of this package raises. Pure."""

from __future__ import annotations

from cafs.errors import CafsError


class RequestRefusedError(CafsError):
    """The request is answered with ``status``, and its message as the body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def bad_request(message: str) -> RequestRefusedError:
    """The client's request is malformed, or means different things to different readers."""
    return RequestRefusedError(400, message)
