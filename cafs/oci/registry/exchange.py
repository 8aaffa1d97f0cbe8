"""One request to a server and its answer, whichever transport carries it.

``RegistryClient`` decides; two transports carry out: ``direct`` for what has no body and needs no proxy,
which is nearly all that reading an image asks, and ``library`` (httpx) for the rest. Both make an
``Exchange``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cafs.core.settings import Settings
from cafs.errors import DeadlineError

CONNECTIONS_BESIDE_RANGES = 8
KEEPALIVE_S = 60.0


class Exchange(Protocol):
    """An answer whose head is here, and whose body is still to be read.

    Whoever got it closes it, whatever happens. Errors of ``receive`` are ours already.
    """

    @property
    def status(self) -> int: ...

    @property
    def reason(self) -> str:
        """What the server calls the status."""
        ...

    @property
    def url(self) -> str:
        """Whom the answer is from."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By name in small letters; those that came more than once joined by commas."""
        ...

    async def receive(self) -> bytes:
        """The next piece of the body as it comes; empty at its end.

        Raises:
            DeadlineError: the server was silent for too long.
            ProtocolError: what came is no HTTP, or ended too soon.
            RemoteError: the connection broke.
        """
        ...

    async def aclose(self) -> None:
        """The end. A body that was read whole leaves its connection to others, any other closes it."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the steps of an exchange may take, in seconds."""

    connect_s: float
    stall_s: float
    """Silence of the server."""
    room_s: float
    """Wait for one of a bounded number of connections."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Patience:
        """As the user configured."""
        return cls(settings.connect_timeout_s, settings.stall_timeout_s, settings.read_deadline_s)

    def no_connection(self, what: str) -> DeadlineError:
        """Connecting took too long."""
        return DeadlineError(f"{what}: no connection within {self.connect_s:g} s")

    def no_room(self, what: str) -> DeadlineError:
        """All connections are busy."""
        return DeadlineError(f"{what}: no free connection within {self.room_s:g} s")

    def silence(self, what: str) -> DeadlineError:
        """The server says nothing."""
        return DeadlineError(f"{what}: the registry was silent for {self.stall_s:g} s")


def one_line(error: Exception) -> str:
    """What went wrong: a library's error often says nothing, but one of its causes does."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None or str(cause):
            break
        cause = cause.__cause__ or cause.__context__
    return " ".join(str(cause or type(error).__name__).split())[:200]


_MAX_CAUSES = 8
