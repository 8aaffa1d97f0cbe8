"""Messages between a peer and its scheduler: what the one writes the other one reads."""

from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.scheduling import decisions, events
from cafs.core.scheduling.events import HostType
from cafs.core.swarm.ids import HostId, PeerId, task_id
from cafs.core.swarm.layout import Bitmap, Layout
from cafs.core.swarm.messages import (
    Conflict,
    DigestsKnown,
    FailReason,
    FinishedPiece,
    ForgetReason,
    Forgotten,
    MembersChanged,
    MetaKnown,
    Outcome,
    Refused,
    SourceAllowed,
)
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.errors import ProtocolError
from cafs.p2p import scheduler_messages as messages
from cafs.p2p.scheduler_messages import ForPeer, ForTask, HeldTask, HostFacts, SeedAsked, Welcomed
from cafs.proto import p2p_pb2
from cafs.scheduler.incoming import parse_event, parse_hello
from cafs.scheduler.outgoing import encode

MIB = 1 << 20
URL = "http://origin.example/f"
TASK = task_id(URL)
ME, OTHER, PEER = HostId("a" * 32), HostId("b" * 32), PeerId("c" * 32)
SPEC = TaskSpec(task_id=TASK, url=URL, tag="t", application="a", priority=5, filtered_query=("sig",))
META = TaskMeta(Layout(3 * MIB - 1, MIB), (("etag", '"1"'),))
FACTS = HostFacts(
    host_id=ME,
    hostname="node",
    address="10.0.0.7:65002",
    seed=True,
    idc="x",
    location="a|b",
    upload_limit=64,
    version="1",
)


def heard(message: p2p_pb2.FromHost) -> Any:
    """The event, as the scheduler understands it."""
    event = parse_event(ME, p2p_pb2.FromHost.FromString(message.SerializeToString()))
    assert event is not None
    return event


def told(decision: decisions.Decision) -> messages.Heard | None:
    """As the peer understands what the scheduler decided."""
    return messages.parse(p2p_pb2.ToHost.FromString(encode(decision, "5" * 32)))


def test_hello() -> None:
    held = HeldTask(SPEC, META, Bitmap.of([0, 2]), (b"x" * 32, b"y" * 32))
    hello = parse_hello(messages.hello(FACTS, [held]))
    assert (hello.host_id, hello.address, hello.type) == (ME, "10.0.0.7:65002", HostType.SEED)
    assert (hello.idc, hello.location, hello.upload_limit) == ("x", ("a", "b"), 64)
    [one] = hello.held
    assert (one.spec.url, one.spec.filtered_query, one.spec.seedable) == (URL, ("sig",), True)
    assert (one.meta.content_bytes, one.meta.piece_bytes, one.have) == (3 * MIB - 1, MIB, 0b101)
    assert one.digests == b"x" * 32 + b"y" * 32


def test_a_hello_tells_of_as_many_digests_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_TOLD_DIGESTS", 3)
    held = HeldTask(SPEC, META, Bitmap.of([0, 2]), (b"x" * 32, b"y" * 32))
    hello = parse_hello(messages.hello(FACTS, [held, held]))
    assert [len(one.digests) for one in hello.held] == [64, 0]


def test_what_a_download_says() -> None:
    assert heard(messages.register(PEER, SPEC, whole=True, chunks_only=False)).whole
    assert not heard(messages.register(PEER, SPEC, whole=False, chunks_only=False)).whole
    assert heard(messages.register(PEER, SPEC, whole=True, chunks_only=True)).chunks_only
    piece = FinishedPiece(7, b"z" * 32, OTHER, 12)
    assert heard(messages.pieces(PEER, [piece])).pieces == ((7, b"z" * 32, OTHER, 12),)
    for reason in FailReason:
        failed = heard(messages.failed(PEER, 3, OTHER, reason))
        assert failed.reason.name == reason.name
    for outcome in Outcome:
        finished = heard(messages.finished(PEER, outcome, "why", 404))
        assert (finished.outcome.name, finished.status) == (outcome.name, 404)
    assert heard(messages.meta(TASK, META)).meta.content_bytes == 3 * MIB - 1
    assert heard(messages.left(PEER)) == events.PeerLeft(ME, PEER)
    assert heard(messages.leaving()) == events.HostLeft(ME)


def test_what_the_scheduler_says() -> None:
    assert told(decisions.Welcome((ME,), 10.0)) == Welcomed("5" * 32, 10.0)
    candidate = decisions.Candidate(
        host_id=OTHER, address="10.0.0.8:1", type=HostType.NORMAL, score=0.5,
        complete=False, have=0b11, owner=True, at_source=True,
    )  # fmt: skip
    members = decisions.Members(
        to=(ME,), task_id=TASK, version=1, whole=True, members=(candidate,), gone=("d" * 32,),
        self_owner=True, self_at_source=False, swarm=2,
    )  # fmt: skip
    match told(members):
        case ForTask(event=MembersChanged() as changed):
            assert (changed.whole, changed.gone, changed.self_at_source) == (True, ("d" * 32,), False)
            [member] = changed.members
            assert (member.host, member.at_source, [*member.have]) == (OTHER, True, [0, 1])
        case other:
            pytest.fail(repr(other))
    digests = decisions.PieceDigests((ME,), TASK, 4, b"x" * 32 + bytes(32))
    assert told(digests) == ForTask(TASK, DigestsKnown(4, (b"x" * 32, None)))
    meta = events.Meta(content_bytes=-1, piece_bytes=MIB, headers=(("etag", "e"), ("set-cookie", "no")))
    assert told(decisions.TellMeta((ME,), TASK, meta)) == ForTask(
        TASK, MetaKnown(TaskMeta(Layout(None, MIB), (("etag", "e"),)))
    )
    assert told(decisions.TaskConflict((ME,), TASK, meta)) == ForTask(TASK, Conflict())
    assert told(decisions.GoToSource((ME,), PEER, "why")) == ForPeer(PEER, SourceAllowed(True, "why"))
    assert told(decisions.Refused((ME,), PEER, "source_failed", 1.5, "no", 404)) == ForPeer(
        PEER, Refused("source_failed", 1.5, "no", 404)
    )
    forget = decisions.ForgetTask((ME,), TASK, events.ForgetReason.QUARANTINED)
    assert told(forget) == ForTask(TASK, Forgotten(ForgetReason.QUARANTINED))
    spec = events.TaskSpec(task_id=TASK, url=URL, seedable=True)
    match told(decisions.SeedTask((ME,), spec)):
        case SeedAsked(spec=asked):
            assert (asked.url, asked.private) == (URL, False)
        case other:
            pytest.fail(repr(other))


@pytest.mark.parametrize("status", [0, 1, 200, 204, 304, 399, 600, 1 << 31])
def test_no_failure_is_told_on_as_a_success(status: int) -> None:
    """Whoever hears that the source failed with 200 would have an empty content."""
    assert heard(messages.finished(PEER, Outcome.FAILED, "why", status)).status == 0
    assert told(decisions.Refused((ME,), PEER, "source_failed", 1.5, "no", status)) == ForPeer(
        PEER, Refused("source_failed", 1.5, "no", 0)
    )


@pytest.mark.parametrize(
    "message",
    [
        p2p_pb2.ToHost(members=p2p_pb2.Members(task_id="x")),
        p2p_pb2.ToHost(members=p2p_pb2.Members(task_id=TASK, members=[p2p_pb2.Member(host_id="y")])),
        p2p_pb2.ToHost(digests=p2p_pb2.PieceDigests(task_id=TASK, digests=b"short")),
        p2p_pb2.ToHost(digests=p2p_pb2.PieceDigests(task_id=TASK, first=1 << 31, digests=b"x" * 32)),
        p2p_pb2.ToHost(meta=p2p_pb2.TaskMeta(task_id=TASK, content_bytes=-7, piece_bytes=MIB)),
        p2p_pb2.ToHost(meta=p2p_pb2.TaskMeta(task_id=TASK, content_bytes=7, piece_bytes=5)),
        p2p_pb2.ToHost(seed=p2p_pb2.SeedTask(task=p2p_pb2.TaskSpec(task_id=TASK, digest="md5:1"))),
    ],
)
def test_nonsense_costs_one_message(message: p2p_pb2.ToHost) -> None:
    with pytest.raises(ProtocolError):
        messages.parse(message)


def test_what_is_not_known_is_ignored() -> None:
    assert messages.parse(p2p_pb2.ToHost()) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data: bytes) -> None:
    message = p2p_pb2.ToHost()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return
    with suppress(ProtocolError):
        messages.parse(message)
