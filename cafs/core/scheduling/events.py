"""What the core is told. Frozen; checked in form by whoever makes them (``cafs.scheduler.messages``).

Bitmaps are ints here: piece n is bit n. Ids are as in ``proto/p2p.proto``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

USUAL_PRIORITY = 3


class HostType(Enum):
    """What a host is for."""

    NORMAL = "normal"
    SEED = "seed"


class FailReason(Enum):
    """Why a piece did not come."""

    CORRUPT = "corrupt"
    REFUSED = "refused"
    SLOW = "slow"
    GONE = "gone"
    ORIGIN = "origin"


class Outcome(Enum):
    """How a download ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    BAD_CONTENT = "bad content"


class ForgetReason(Enum):
    """Why a task is to be forgotten."""

    QUARANTINED = "quarantined"
    DELETED = "deleted"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What is to be had."""

    task_id: str
    url: str = ""
    digest: str = ""
    tag: str = ""
    application: str = ""
    priority: int = USUAL_PRIORITY
    seedable: bool = False
    filtered_query: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What the source says of a content."""

    content_bytes: int
    """-1: not known yet."""
    piece_bytes: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Pieces of a task that a host keeps."""

    spec: TaskSpec
    meta: Meta
    have: int
    digests: bytes = b""
    """32 bytes for each bit of ``have``, lowest first; or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostHello:
    """A host's stream began. Replaces all that was known of it."""

    host_id: str
    address: str
    hostname: str = ""
    type: HostType = HostType.NORMAL
    idc: str = ""
    location: tuple[str, ...] = ()
    upload_limit: int = 0
    version: str = ""
    held: tuple[Held, ...] = ()


@dataclass(frozen=True, slots=True)
class HostAlive:
    """A host's regular word."""

    host_id: str
    uploads: int = 0
    upload_bytes_per_s: int = 0
    download_bytes_per_s: int = 0
    upload_limit: int = 0
    """0: as before."""
    draining: bool = False


@dataclass(frozen=True, slots=True)
class HostLost:
    """A host's stream broke. It may still serve others, and come back."""

    host_id: str


@dataclass(frozen=True, slots=True)
class HostLeft:
    """A host ends in order."""

    host_id: str


@dataclass(frozen=True, slots=True)
class PeerRegister:
    """A download of one task on one host begins."""

    host_id: str
    peer_id: str
    spec: TaskSpec
    whole: bool = True
    """It wants all pieces."""
    chunks_only: bool = False


@dataclass(frozen=True, slots=True)
class TaskMeta:
    """A host tells what the source says."""

    host_id: str
    task_id: str
    meta: Meta


class Piece(NamedTuple):
    """One piece that is whole and verified."""

    number: int
    digest: bytes
    parent: str
    """Host id; empty: from the source."""
    cost_ms: int


@dataclass(frozen=True, slots=True)
class PiecesFinished:
    """Pieces that a download got."""

    host_id: str
    peer_id: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class PieceFailed:
    """A piece did not come."""

    host_id: str
    peer_id: str
    number: int
    parent: str
    reason: FailReason


@dataclass(frozen=True, slots=True)
class PeerFinished:
    """A download ended."""

    host_id: str
    peer_id: str
    outcome: Outcome
    reason: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """A download was cancelled."""

    host_id: str
    peer_id: str


@dataclass(frozen=True, slots=True)
class TasksDropped:
    """A host holds nothing of these tasks any more."""

    host_id: str
    task_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeleteTask:
    """Somebody who may wants a task forgotten everywhere."""

    task_id: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: due work is done, a bounded share of it at each tick."""


Event = (
    HostHello
    | HostAlive
    | HostLost
    | HostLeft
    | PeerRegister
    | TaskMeta
    | PiecesFinished
    | PieceFailed
    | PeerFinished
    | PeerLeft
    | TasksDropped
    | DeleteTask
    | Tick
)
