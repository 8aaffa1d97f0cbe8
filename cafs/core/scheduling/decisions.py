"""What the core decides. Each goes to the hosts ``to``; who carries it out need not know why it was made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from cafs.core.scheduling.events import ForgetReason, HostType, Meta, TaskSpec


class Candidate(NamedTuple):
    """A host that may be asked for a task's pieces."""

    host_id: str
    address: str
    type: HostType
    score: float
    complete: bool
    have: int
    owner: bool
    at_source: bool


@dataclass(frozen=True, slots=True)
class Welcome:
    """The host is known."""

    to: tuple[str, ...]
    alive_every_s: float


@dataclass(frozen=True, slots=True)
class Members:
    """Changes of whom a host may ask; see the message of that name."""

    to: tuple[str, ...]
    task_id: str
    version: int
    whole: bool
    members: tuple[Candidate, ...]
    gone: tuple[str, ...]
    self_owner: bool
    self_at_source: bool
    swarm: int


@dataclass(frozen=True, slots=True)
class PieceDigests:
    """What the notary knows of pieces first, first + 1, ...: 32 bytes each."""

    to: tuple[str, ...]
    task_id: str
    first: int
    digests: bytes


@dataclass(frozen=True, slots=True)
class TellMeta:
    """What the content is."""

    to: tuple[str, ...]
    task_id: str
    meta: Meta


@dataclass(frozen=True, slots=True)
class TaskConflict:
    """What a host says of the content is not what the others know."""

    to: tuple[str, ...]
    task_id: str
    meta: Meta


@dataclass(frozen=True, slots=True)
class GoToSource:
    """This peer may fetch from the source; or, revoked, may no longer."""

    to: tuple[str, ...]
    peer_id: str
    why: str
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class SeedTask:
    """A seed is to fetch this."""

    to: tuple[str, ...]
    spec: TaskSpec


@dataclass(frozen=True, slots=True)
class ForgetTask:
    """Delete what you hold."""

    to: tuple[str, ...]
    task_id: str
    why: ForgetReason


@dataclass(frozen=True, slots=True)
class Refused:
    """This download is not scheduled."""

    to: tuple[str, ...]
    peer_id: str
    why: str
    retry_after_s: float = 0.0
    """0: not again."""
    detail: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Nothing is known of the host any more: its stream ends, and a new one begins with a hello."""

    to: tuple[str, ...]
    why: str


Decision = (
    Welcome
    | Members
    | PieceDigests
    | TellMeta
    | TaskConflict
    | GoToSource
    | SeedTask
    | ForgetTask
    | Refused
    | Disconnect
)
