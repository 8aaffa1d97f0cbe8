"""What a host and its scheduler say, between ``proto/p2p.proto`` and plain values. Pure.

A scheduler may be of another version or broken: what does not fit raises ``ProtocolError`` and costs that
message only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cafs.core.digest import Digest, parse_digest
from cafs.core.swarm.ids import HostId, PeerId, TaskId, parse_host_id, parse_task_id
from cafs.core.swarm.layout import MAX_PIECES, Bitmap, Layout, parse_layout
from cafs.core.swarm.messages import (
    Conflict,
    DigestsKnown,
    FailReason,
    FinishedPiece,
    ForgetReason,
    Forgotten,
    Member,
    MembersChanged,
    MetaKnown,
    Outcome,
    Refused,
    SourceAllowed,
    SwarmEvent,
)
from cafs.core.swarm.task import MAX_HEADERS, TaskMeta, TaskSpec, replayed
from cafs.errors import ProtocolError, UsageError
from cafs.proto import p2p_pb2

PROTOCOL_VERSION = 1
MAX_HELD = 4096
MAX_TOLD_DIGESTS = 1 << 19
"""In one hello: 16 MiB of digests, as a whole message may have 64 MiB."""
PIECES_IN_MESSAGE = 1024
_DIGEST_BYTES = 32
_UNKNOWN = bytes(_DIGEST_BYTES)
_MAX_LINE = 512
_FORGET = {
    p2p_pb2.QUARANTINED: ForgetReason.QUARANTINED,
    p2p_pb2.DELETED: ForgetReason.DELETED,
    p2p_pb2.EXPIRED: ForgetReason.EXPIRED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host says of itself."""

    host_id: HostId
    hostname: str
    address: str
    seed: bool
    idc: str
    location: str
    upload_limit: int
    version: str


@dataclass(frozen=True, slots=True)
class HeldTask:
    """What it has of one content."""

    spec: TaskSpec
    meta: TaskMeta
    have: Bitmap
    digests: Sequence[bytes]
    """Of the pieces in ``have``, in order."""


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The scheduler took us in."""

    scheduler_id: str
    alive_every_s: float


@dataclass(frozen=True, slots=True)
class SeedAsked:
    """This seed is to fetch a content."""

    spec: TaskSpec


@dataclass(frozen=True, slots=True)
class LimitsSet:
    """By the name that ``PeerLimits`` gives them."""

    changes: dict[str, int]


@dataclass(frozen=True, slots=True)
class ForTask:
    """About the download of a task."""

    task: TaskId
    event: SwarmEvent


@dataclass(frozen=True, slots=True)
class ForPeer:
    """About one download."""

    peer: PeerId
    event: SwarmEvent


Heard = Welcomed | SeedAsked | LimitsSet | ForTask | ForPeer


# To the scheduler


def hello(facts: HostFacts, held: Iterable[HeldTask]) -> p2p_pb2.FromHost:
    """Who we are and what we have; the most recently used first."""
    told, left = [], MAX_TOLD_DIGESTS
    for task in list(held)[:MAX_HELD]:
        tell_digests = len(task.digests) <= left
        left -= len(task.digests) if tell_digests else 0
        told.append(_held(task, tell_digests=tell_digests))
    return p2p_pb2.FromHost(
        hello=p2p_pb2.HostHello(
            protocol_version=PROTOCOL_VERSION,
            host_id=facts.host_id,
            hostname=facts.hostname,
            address=facts.address,
            type=p2p_pb2.SEED if facts.seed else p2p_pb2.NORMAL,
            idc=facts.idc,
            location=facts.location,
            concurrent_upload_limit=facts.upload_limit,
            version=facts.version,
            held=told,
        )
    )


def _held(task: HeldTask, *, tell_digests: bool) -> p2p_pb2.HeldTask:
    return p2p_pb2.HeldTask(
        task_id=task.spec.task_id,
        content_bytes=_length(task.meta.layout),
        piece_bytes=task.meta.layout.piece_bytes,
        have=task.have.encode(),
        digests=b"".join(task.digests) if tell_digests else b"",
        spec=_spec(task.spec),
        headers=_headers(task.meta),
    )


def alive(uploads: int, upload_rate: int, download_rate: int, upload_limit: int) -> p2p_pb2.FromHost:
    """The regular word."""
    return p2p_pb2.FromHost(
        alive=p2p_pb2.HostAlive(
            uploads=uploads,
            upload_bytes_per_s=upload_rate,
            download_bytes_per_s=download_rate,
            concurrent_upload_limit=upload_limit,
        )
    )


def register(peer: PeerId, spec: TaskSpec, *, whole: bool, chunks_only: bool) -> p2p_pb2.FromHost:
    """A download begins. Which ranges are wanted is nobody's business; only whether it is all."""
    wants = [] if whole else [p2p_pb2.ByteRange(first=0, last=0)]
    return p2p_pb2.FromHost(
        register=p2p_pb2.PeerRegister(peer_id=peer, task=_spec(spec), wants=wants, chunks_only=chunks_only)
    )


def meta(task: TaskId, known: TaskMeta) -> p2p_pb2.FromHost:
    """What the source says of a content."""
    return p2p_pb2.FromHost(
        meta=p2p_pb2.TaskMeta(
            task_id=task,
            content_bytes=_length(known.layout),
            piece_bytes=known.layout.piece_bytes,
            headers=_headers(known),
        )
    )


def pieces(peer: PeerId, finished: Sequence[FinishedPiece]) -> p2p_pb2.FromHost:
    """Pieces that are here now; at most ``PIECES_IN_MESSAGE``."""
    told = [
        p2p_pb2.FinishedPiece(
            number=piece.number,
            digest=piece.digest,
            parent_host_id=piece.parent or "",
            cost_ms=min(piece.cost_ms, (1 << 32) - 1),
        )
        for piece in finished
    ]
    return p2p_pb2.FromHost(pieces=p2p_pb2.PiecesFinished(peer_id=peer, pieces=told))


def failed(peer: PeerId, number: int, parent: HostId | None, reason: FailReason) -> p2p_pb2.FromHost:
    """A piece that did not come."""
    return p2p_pb2.FromHost(
        failed=p2p_pb2.PieceFailed(
            peer_id=peer,
            number=number,
            parent_host_id=parent or "",
            reason=reason.name,
        )
    )


def finished(peer: PeerId, outcome: Outcome, reason: str = "", status: int = 0) -> p2p_pb2.FromHost:
    """The end of a download."""
    return p2p_pb2.FromHost(
        finished=p2p_pb2.PeerFinished(
            peer_id=peer,
            outcome=outcome.name,
            reason=reason[:_MAX_LINE],
            status=status,
        )
    )


def left(peer: PeerId) -> p2p_pb2.FromHost:
    """Nobody wants it any more."""
    return p2p_pb2.FromHost(left=p2p_pb2.PeerLeft(peer_id=peer))


def dropped(tasks: Iterable[TaskId]) -> p2p_pb2.FromHost:
    """Nothing of them is here any more."""
    return p2p_pb2.FromHost(dropped=p2p_pb2.TaskDropped(task_ids=tasks))


def leaving() -> p2p_pb2.FromHost:
    """This host ends."""
    return p2p_pb2.FromHost(leaving=p2p_pb2.HostLeaving())


def _length(layout: Layout) -> int:
    return -1 if layout.content_bytes is None else layout.content_bytes


def _headers(known: TaskMeta) -> list[p2p_pb2.Header]:
    return [p2p_pb2.Header(name=name, value=value) for name, value in known.headers[:MAX_HEADERS]]


def _spec(spec: TaskSpec) -> p2p_pb2.TaskSpec:
    return p2p_pb2.TaskSpec(
        task_id=spec.task_id,
        url=spec.url,
        digest=spec.digest or "",
        tag=spec.tag,
        application=spec.application,
        priority=spec.priority,
        seedable=spec.seedable,
        filtered_query=spec.filtered_query,
    )


# From the scheduler


def parse(message: p2p_pb2.ToHost) -> Heard | None:
    """What it says; None: something that this version does not know.

    Raises:
        ProtocolError: nonsense.
    """
    try:
        return _parse(message)
    except UsageError as e:
        raise ProtocolError(f"the scheduler speaks nonsense: {e}") from None


def _parse(message: p2p_pb2.ToHost) -> Heard | None:  # noqa: PLR0911 - one answer for each message
    match message.WhichOneof("message"):
        case "welcome":
            return Welcomed(message.welcome.scheduler_id, max(0.5, message.welcome.alive_every_ms / 1000))
        case "members":
            return ForTask(parse_task_id(message.members.task_id), _members(message.members))
        case "digests":
            return ForTask(parse_task_id(message.digests.task_id), _digests(message.digests))
        case "meta":
            return ForTask(parse_task_id(message.meta.task_id), MetaKnown(_meta(message.meta)))
        case "conflict":
            return ForTask(parse_task_id(message.conflict.task_id), Conflict())
        case "source":
            said = message.source
            return ForPeer(PeerId(said.peer_id), SourceAllowed(not said.revoked, said.why))
        case "refused":
            no = message.refused
            status = no.status if 400 <= no.status < 600 else 0  # no success by hearsay
            refusal = Refused(no.why, no.retry_after_ms / 1000, no.detail, status)
            return ForPeer(PeerId(no.peer_id), refusal)
        case "forget":
            why = _FORGET.get(message.forget.why, ForgetReason.DELETED)
            return ForTask(parse_task_id(message.forget.task_id), Forgotten(why))
        case "seed":
            return SeedAsked(_parse_spec(message.seed.task))
        case "limits":
            return LimitsSet(_limits(message.limits))
        case _:
            return None


def _members(told: p2p_pb2.Members) -> MembersChanged:
    return MembersChanged(
        members=tuple(map(_member, told.members)),
        gone=tuple(HostId(host) for host in told.gone),
        whole=told.whole,
        self_owner=told.self_owner,
        self_at_source=told.self_at_source,
    )


def _member(told: p2p_pb2.Member) -> Member:
    return Member(
        host=parse_host_id(told.host_id),
        address=told.address,
        score=told.score,
        seed=told.type == p2p_pb2.SEED,
        complete=told.complete,
        have=Bitmap.decode(told.have, None),
        owner=told.owner,
        at_source=told.at_source,
    )


def _digests(told: p2p_pb2.PieceDigests) -> DigestsKnown:
    data = told.digests
    if len(data) % _DIGEST_BYTES or told.first + len(data) // _DIGEST_BYTES > MAX_PIECES:
        raise ProtocolError("the scheduler's digests are none")
    parts = [data[at : at + _DIGEST_BYTES] for at in range(0, len(data), _DIGEST_BYTES)]
    return DigestsKnown(told.first, tuple(part if part != _UNKNOWN else None for part in parts))


def _meta(told: p2p_pb2.TaskMeta) -> TaskMeta:
    layout = parse_layout(told.content_bytes, told.piece_bytes)
    return TaskMeta(layout, replayed(tuple((header.name, header.value) for header in told.headers)))


def _parse_spec(told: p2p_pb2.TaskSpec) -> TaskSpec:
    digest: Digest | None = parse_digest(told.digest) if told.digest else None
    return TaskSpec(
        task_id=parse_task_id(told.task_id),
        url=told.url,
        digest=digest,
        tag=told.tag,
        application=told.application,
        priority=min(told.priority, 6),
        private=not told.seedable,
        filtered_query=tuple(told.filtered_query),
    )


def _limits(told: p2p_pb2.SetLimits) -> dict[str, int]:
    names = ("concurrent_uploads", "upload_bytes_per_s", "download_bytes_per_s", "source_bytes_per_s")
    return {name: getattr(told, name) for name in names if told.HasField(name)}
