"""What hosts send, as the core's events. Everything is checked here: nothing malformed gets further. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from cafs.core.host_address import parse_address
from cafs.core.scheduling.events import (
    Event,
    FailReason,
    Held,
    HostAlive,
    HostHello,
    HostLeft,
    HostType,
    Meta,
    Outcome,
    PeerFinished,
    PeerLeft,
    PeerRegister,
    Piece,
    PieceFailed,
    PiecesFinished,
    TaskMeta,
    TasksDropped,
    TaskSpec,
)
from cafs.core.swarm.task import REPLAYED
from cafs.errors import ProtocolError
from cafs.proto import p2p_pb2
from cafs.scheduler.urls import cut, is_clean

PROTOCOL_VERSION = 1
_TASK_ID, _ID = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{32}")
_DIGEST = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})?")
_MOST_HELD, _MOST_PIECES, _MOST_DROPPED = 4096, 1024, 65_536
_BITMAP_BYTES, _DIGEST_BYTES = 8192, 32
_TEXT_BYTES, _REASON_BYTES, _HEADER_BYTES, _HEADERS = 255, 512, 1024, 16
_LOCATION_PARTS = 5
_UPLOADS = 65_536
_MOST_BYTES = 1 << 50
_REASONS = {
    p2p_pb2.CORRUPT: FailReason.CORRUPT,
    p2p_pb2.REFUSED: FailReason.REFUSED,
    p2p_pb2.SLOW: FailReason.SLOW,
    p2p_pb2.GONE: FailReason.GONE,
    p2p_pb2.ORIGIN: FailReason.ORIGIN,
}
_OUTCOMES = {
    p2p_pb2.SUCCEEDED: Outcome.SUCCEEDED,
    p2p_pb2.FAILED: Outcome.FAILED,
    p2p_pb2.BAD_CONTENT: Outcome.BAD_CONTENT,
}


def parse_hello(message: p2p_pb2.FromHost) -> HostHello:
    """The first message of a stream.

    Raises:
        ProtocolError: it is something else, or malformed.
    """
    if message.WhichOneof("message") != "hello":
        raise ProtocolError("the first message must be HostHello")
    hello = message.hello
    if hello.protocol_version != PROTOCOL_VERSION:
        raise ProtocolError(f"protocol version {hello.protocol_version}: this scheduler speaks 1")
    _need(len(hello.held) <= _MOST_HELD, f"more than {_MOST_HELD} held tasks")
    location = tuple(part for part in _text(hello.location, "location").split("|") if part)
    return HostHello(
        host_id=_id(hello.host_id),
        address=parse_address(hello.address),
        hostname=_text(hello.hostname, "hostname"),
        type=HostType.SEED if hello.type == p2p_pb2.SEED else HostType.NORMAL,
        idc=_text(hello.idc, "idc"),
        location=location[:_LOCATION_PARTS],
        upload_limit=min(hello.concurrent_upload_limit, _UPLOADS),
        version=_text(hello.version, "version"),
        held=tuple(map(_held, hello.held)),
    )


def parse_event(host_id: str, message: p2p_pb2.FromHost) -> Event | None:
    """Any later message; None: one that this version does not know.

    Raises:
        ProtocolError: it is malformed.
    """
    kind = message.WhichOneof("message")
    if kind == "hello":
        raise ProtocolError("a second HostHello on one stream")
    if kind is None:
        return None
    return _PARSERS[kind](host_id, getattr(message, kind))


def _held(held: p2p_pb2.HeldTask) -> Held:
    task_id = _task_id(held.task_id)
    have = _bitmap(held.have)
    _need(len(held.digests) in (0, have.bit_count() * _DIGEST_BYTES), "held: digests are not those of `have`")
    return Held(
        spec=_spec(held.spec, task_id),
        meta=_meta(held.content_bytes, held.piece_bytes or 1 << 20, held.headers),
        have=have,
        digests=held.digests,
    )


def _alive(host_id: str, alive: p2p_pb2.HostAlive) -> Event:
    return HostAlive(
        host_id,
        min(alive.uploads, _UPLOADS),
        alive.upload_bytes_per_s,
        alive.download_bytes_per_s,
        min(alive.concurrent_upload_limit, _UPLOADS),
        alive.draining,
    )


def _register(host_id: str, register: p2p_pb2.PeerRegister) -> Event:
    spec = _spec(register.task, register.task.task_id)
    _need(len(register.wants) <= _MOST_PIECES, "too many ranges")
    return PeerRegister(host_id, _id(register.peer_id), spec, not register.wants, register.chunks_only)


def _task_meta(host_id: str, meta: p2p_pb2.TaskMeta) -> Event:
    return TaskMeta(
        host_id, _task_id(meta.task_id), _meta(meta.content_bytes, meta.piece_bytes, meta.headers)
    )


def _pieces(host_id: str, finished: p2p_pb2.PiecesFinished) -> Event:
    _need(len(finished.pieces) <= _MOST_PIECES, f"more than {_MOST_PIECES} pieces in one message")
    pieces = []
    for piece in finished.pieces:
        parent = piece.parent_host_id
        if len(piece.digest) != _DIGEST_BYTES or (parent and not _ID.fullmatch(parent)):
            raise ProtocolError("a finished piece needs a digest of 32 bytes and a parent's host id, or none")
        pieces.append(Piece(piece.number, piece.digest, parent, piece.cost_ms))
    return PiecesFinished(host_id, _id(finished.peer_id), tuple(pieces))


def _failed(host_id: str, failed: p2p_pb2.PieceFailed) -> Event:
    reason = _REASONS.get(failed.reason, FailReason.GONE)
    parent = _id(failed.parent_host_id) if failed.parent_host_id else ""
    return PieceFailed(host_id, _id(failed.peer_id), failed.number, parent, reason)


def _finished(host_id: str, finished: p2p_pb2.PeerFinished) -> Event:
    outcome = _OUTCOMES.get(finished.outcome, Outcome.FAILED)
    reason = _line(finished.reason)
    # Others are told it, and a client who is told 200 has an empty content and takes it for whole.
    status = finished.status if 400 <= finished.status < 600 else 0
    return PeerFinished(host_id, _id(finished.peer_id), outcome, reason, status)


def _left(host_id: str, left: p2p_pb2.PeerLeft) -> Event:
    return PeerLeft(host_id, _id(left.peer_id))


def _dropped(host_id: str, dropped: p2p_pb2.TaskDropped) -> Event:
    _need(len(dropped.task_ids) <= _MOST_DROPPED, "too many dropped tasks in one message")
    return TasksDropped(host_id, tuple(map(_task_id, dropped.task_ids)))


def _leaving(host_id: str, _: p2p_pb2.HostLeaving) -> Event:
    return HostLeft(host_id)


_PARSERS: dict[str, Callable[[str, Any], Event]] = {
    "alive": _alive,
    "register": _register,
    "meta": _task_meta,
    "pieces": _pieces,
    "failed": _failed,
    "finished": _finished,
    "left": _left,
    "dropped": _dropped,
    "leaving": _leaving,
}


def _spec(spec: p2p_pb2.TaskSpec, task_id: str) -> TaskSpec:
    _need(len(spec.filtered_query) <= _MOST_PIECES, "too many filtered query parameters")
    _need(bool(_DIGEST.fullmatch(spec.digest)), "digest: expected sha256:...")
    clean = is_clean(spec.url)
    return TaskSpec(
        task_id=_task_id(task_id),
        url=spec.url if clean and spec.seedable else cut(spec.url),
        digest=spec.digest,
        tag=_text(spec.tag, "tag"),
        application=_text(spec.application, "application"),
        priority=min(spec.priority, 6),
        seedable=spec.seedable and clean and bool(spec.url),
        filtered_query=tuple(_text(name, "filtered_query") for name in spec.filtered_query),
    )


def _meta(content_bytes: int, piece_bytes: int, headers: Iterable[p2p_pb2.Header]) -> Meta:
    _need(-1 <= content_bytes <= _MOST_BYTES, "content_bytes: out of bounds")
    kept = [
        (header.name, header.value)
        for header in headers
        if header.name in REPLAYED and len(header.value) <= _HEADER_BYTES and header.value.isprintable()
    ]
    return Meta(content_bytes=content_bytes, piece_bytes=piece_bytes, headers=tuple(kept[:_HEADERS]))


def _bitmap(data: bytes) -> int:
    _need(len(data) <= _BITMAP_BYTES, "a bitmap is too long")
    return int.from_bytes(data, "little")


def _id(text: str) -> str:
    _need(bool(_ID.fullmatch(text)), "an id must be 32 lower-case hex digits")
    return text


def _task_id(text: str) -> str:
    _need(bool(_TASK_ID.fullmatch(text)), "a task id must be 64 lower-case hex digits")
    return text


def _text(text: str, what: str) -> str:
    _need(
        len(text.encode()) <= _TEXT_BYTES and (text.isprintable() or not text),
        f"{what}: too long or unprintable",
    )
    return text


def _line(text: str) -> str:
    """Shown to people: one line, and no url's query."""
    line = " ".join(text.split())[:_REASON_BYTES]
    return re.sub(
        r"(\w+://)([^/\s@]*@)?([^\s?#]*)[?#]\S*", r"\1\3", re.sub(r"(\w+://)[^/\s@]*@", r"\1", line)
    )


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ProtocolError(what)
