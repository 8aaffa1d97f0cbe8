"""What a download and its scheduler tell each other, as plain values. Pure.

The fields mean what ``proto/p2p.proto`` says of the messages of the same names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from cafs.core.swarm.ids import HostId
from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.task import TaskMeta


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A candidate parent."""

    host: HostId
    address: str
    score: float = 0.5
    seed: bool = False
    complete: bool = False
    have: Bitmap
    owner: bool = True
    at_source: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersChanged:
    """Who may be asked from now on."""

    members: tuple[Member, ...]
    gone: tuple[HostId, ...] = ()
    whole: bool = False
    self_owner: bool = True
    self_at_source: bool = False


@dataclass(frozen=True, slots=True)
class DigestsKnown:
    """The notary's digests of pieces ``first`` and following; None where it knows none yet."""

    first: int
    digests: tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True)
class MetaKnown:
    """What the content is like."""

    meta: TaskMeta


@dataclass(frozen=True, slots=True)
class SourceAllowed:
    """Go to the source, or no longer."""

    allowed: bool
    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """This download is not scheduled."""

    why: str
    retry_after_s: float = 0.0
    detail: str = ""
    status: int = 0


@dataclass(frozen=True, slots=True)
class Conflict:
    """What we said of the content is not what others said."""


class ForgetReason(Enum):
    QUARANTINED = "quarantined"
    DELETED = "deleted"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Give up what is held of it."""

    why: ForgetReason


@dataclass(frozen=True, slots=True)
class SchedulerLost:
    """No scheduler can be reached: whoever is known may still be asked, and the source."""


SwarmEvent = (
    MembersChanged | DigestsKnown | MetaKnown | SourceAllowed | Refused | Conflict | Forgotten | SchedulerLost
)


class FailReason(Enum):
    """Why a piece did not come from whom it was asked of."""

    CORRUPT = 1
    REFUSED = 2
    SLOW = 3
    GONE = 4
    ORIGIN = 5


class Outcome(Enum):
    SUCCEEDED = 1
    FAILED = 2
    BAD_CONTENT = 3


@dataclass(frozen=True, slots=True)
class FinishedPiece:
    """A piece that is whole, verified and kept; ``parent`` None: from the source."""

    number: int
    digest: bytes
    parent: HostId | None
    cost_ms: int
