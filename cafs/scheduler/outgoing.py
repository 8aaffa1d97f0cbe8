"""The core's decisions as messages to hosts. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cafs.core.scheduling import decisions
from cafs.core.scheduling.events import ForgetReason, HostType, Meta, TaskSpec
from cafs.proto import p2p_pb2

_TYPES = {HostType.NORMAL: p2p_pb2.NORMAL, HostType.SEED: p2p_pb2.SEED}
_WHY = {
    ForgetReason.QUARANTINED: p2p_pb2.QUARANTINED,
    ForgetReason.DELETED: p2p_pb2.DELETED,
    ForgetReason.EXPIRED: p2p_pb2.EXPIRED,
}


def encode(decision: decisions.Decision, scheduler_id: str) -> bytes:
    """One message, the same for all to whom the decision goes."""
    if isinstance(decision, decisions.Welcome):
        every_ms = int(decision.alive_every_s * 1000)
        welcome = p2p_pb2.Welcome(scheduler_id=scheduler_id, alive_every_ms=every_ms)
        return p2p_pb2.ToHost(welcome=welcome).SerializeToString()
    return _ENCODERS[type(decision)](decision).SerializeToString()


def encode_spec(spec: TaskSpec) -> p2p_pb2.TaskSpec:
    """As in SeedTask and TaskInfo."""
    return p2p_pb2.TaskSpec(
        task_id=spec.task_id,
        url=spec.url,
        digest=spec.digest,
        tag=spec.tag,
        application=spec.application,
        priority=spec.priority,
        seedable=spec.seedable,
        filtered_query=spec.filtered_query,
    )


def host_type(kind: HostType) -> p2p_pb2.HostType:
    """The enum's number."""
    return _TYPES[kind]


def _members(told: decisions.Members) -> p2p_pb2.ToHost:
    return p2p_pb2.ToHost(
        members=p2p_pb2.Members(
            task_id=told.task_id,
            version=told.version,
            whole=told.whole,
            members=[_member(member) for member in told.members],
            gone=told.gone,
            self_owner=told.self_owner,
            self_at_source=told.self_at_source,
            swarm=told.swarm,
        )
    )


def _member(member: decisions.Candidate) -> p2p_pb2.Member:
    have = member.have
    return p2p_pb2.Member(
        host_id=member.host_id,
        address=member.address,
        type=_TYPES[member.type],
        score=max(0.0, member.score),
        complete=member.complete,
        have=have.to_bytes((have.bit_length() + 7) // 8, "little"),
        owner=member.owner,
        at_source=member.at_source,
    )


def _digests(told: decisions.PieceDigests) -> p2p_pb2.ToHost:
    digests = p2p_pb2.PieceDigests(task_id=told.task_id, first=told.first, digests=told.digests)
    return p2p_pb2.ToHost(digests=digests)


def _meta(told: decisions.TellMeta) -> p2p_pb2.ToHost:
    meta: Meta = told.meta
    headers = [p2p_pb2.Header(name=name, value=value) for name, value in meta.headers]
    return p2p_pb2.ToHost(
        meta=p2p_pb2.TaskMeta(
            task_id=told.task_id,
            content_bytes=meta.content_bytes,
            piece_bytes=meta.piece_bytes,
            headers=headers,
        )
    )


def _conflict(told: decisions.TaskConflict) -> p2p_pb2.ToHost:
    meta = told.meta
    return p2p_pb2.ToHost(
        conflict=p2p_pb2.TaskConflict(
            task_id=told.task_id, content_bytes=meta.content_bytes, piece_bytes=meta.piece_bytes
        )
    )


def _source(told: decisions.GoToSource) -> p2p_pb2.ToHost:
    return p2p_pb2.ToHost(source=p2p_pb2.GoToSource(peer_id=told.peer_id, why=told.why, revoked=told.revoked))


def _seed(told: decisions.SeedTask) -> p2p_pb2.ToHost:
    return p2p_pb2.ToHost(seed=p2p_pb2.SeedTask(task=encode_spec(told.spec)))


def _forget(told: decisions.ForgetTask) -> p2p_pb2.ToHost:
    return p2p_pb2.ToHost(forget=p2p_pb2.ForgetTask(task_id=told.task_id, why=_WHY[told.why]))


def _refused(told: decisions.Refused) -> p2p_pb2.ToHost:
    return p2p_pb2.ToHost(
        refused=p2p_pb2.Refused(
            peer_id=told.peer_id,
            why=told.why,
            retry_after_ms=int(told.retry_after_s * 1000),
            detail=told.detail,
            status=told.status,
        )
    )


_ENCODERS: dict[type, Callable[[Any], p2p_pb2.ToHost]] = {
    decisions.Members: _members,
    decisions.PieceDigests: _digests,
    decisions.TellMeta: _meta,
    decisions.TaskConflict: _conflict,
    decisions.GoToSource: _source,
    decisions.SeedTask: _seed,
    decisions.ForgetTask: _forget,
    decisions.Refused: _refused,
}
