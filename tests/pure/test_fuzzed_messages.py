"""Every pure parser of what comes from the network, given messages that are nearly right: it reads them, or
says in its own words why not; nothing else escapes."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from random import Random
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.chunk_ref import ChunkRef, Codec
from cafs.core.digest import sha256_digest
from cafs.core.proxying.address import parse_absolute, parse_authority, parse_origin_form
from cafs.core.proxying.directed import parse_directions
from cafs.core.proxying.head import find_head, parse_head
from cafs.core.proxying.mirror import parse_mirrored, parse_mirrors
from cafs.core.proxying.refusal import RequestRefusedError
from cafs.core.proxying.routing import plan_request
from cafs.core.proxying.rules import parse_rules
from cafs.core.scheduling.core import Scheduling
from cafs.core.scheduling.events import HostHello, Tick
from cafs.core.scheduling.limits import Limits
from cafs.core.source import BlobRef, Span
from cafs.core.swarm.chunk_request import ChunkWish, cut_answer, encode_have, parse_chunk_wish
from cafs.core.swarm.download_request import parse_download
from cafs.core.swarm.ids import HostId, PeerId, task_id
from cafs.core.swarm.layout import Bitmap, Layout
from cafs.core.swarm.messages import FailReason, FinishedPiece, Outcome
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.cri.pull_auth import credentials_of_pull
from cafs.errors import CafsError, ProtocolError, UsageError
from cafs.oci.registry.answers import (
    describe_body,
    parse_content_range,
    parse_next_link,
    parse_retry_after,
    resolve_location,
)
from cafs.oci.registry.byteranges import boundary_of, cut_parts
from cafs.oci.registry.challenge import parse_challenges, parse_token
from cafs.oci.registry.pull_secrets import parse_pull_secret
from cafs.p2p import scheduler_messages as messages
from cafs.p2p.scheduler_messages import HeldTask, HostFacts
from cafs.proto import p2p_pb2
from cafs.proto.cri_pb2 import AuthConfig, ImageSpec, PullImageRequest
from cafs.scheduler.incoming import parse_event, parse_hello
from cafs.scheduler.outgoing import encode
from tests.support.fuzzing import fuzzed, mutated

MIB = 1 << 20
URL = "http://origin.example/f?x=1"
TASK = task_id(URL)
ME, OTHER, PEER = HostId("a" * 32), HostId("b" * 32), PeerId("c" * 32)
SPEC = TaskSpec(
    task_id=TASK, url=URL, digest=sha256_digest(b"f"), tag="t", priority=5, filtered_query=("sig",)
)
META = TaskMeta(Layout(3 * MIB - 1, MIB), (("etag", '"1"'),))
FACTS = HostFacts(
    host_id=ME, hostname="node", address="10.0.0.7:65002", seed=True, idc="x", location="a|b",
    upload_limit=64, version="1",
)  # fmt: skip
DIGESTS = (b"x" * 32, b"y" * 32)
HELLO = messages.hello(FACTS, [HeldTask(SPEC, META, Bitmap.of([0, 2]), DIGESTS)])
FROM_HOST = [
    message.SerializeToString()
    for message in (
        HELLO,
        messages.alive(1, 2, 3, 4),
        messages.register(PEER, SPEC, whole=True, chunks_only=False),
        messages.meta(TASK, META),
        messages.pieces(PEER, [FinishedPiece(1, b"z" * 32, OTHER, 12)]),
        messages.failed(PEER, 1, OTHER, FailReason.CORRUPT),
        messages.finished(PEER, Outcome.BAD_CONTENT, "why https://u:p@h/x?y", 404),
        messages.left(PEER),
        messages.dropped([TASK]),
    )
]


class Decided:
    """All that a scheduler says to two hosts, as bytes: the seeds of nonsense."""

    def __init__(self) -> None:
        self.core = Scheduling(Limits(), Random(1))
        self.said: list[bytes] = []
        self.hear(parse_hello(HELLO))
        other = p2p_pb2.FromHost.FromString(HELLO.SerializeToString())
        other.hello.host_id, other.hello.address = OTHER, "10.0.0.8:65002"
        other.hello.ClearField("held")
        self.hear(parse_hello(other))
        for data in FROM_HOST[1:]:
            self.hear(parse_event(OTHER, p2p_pb2.FromHost.FromString(data)))

    def hear(self, event: Any) -> None:
        for at in (100.0, 101.0):
            said = self.core.handle(event if at == 100 else Tick(), at)
            self.said += [encode(decision, "5" * 32) for decision in said]


TO_HOST = Decided().said


@fuzzed(150)
@given(mutated(FROM_HOST), mutated(FROM_HOST))
def test_what_hosts_send_to_the_scheduler(first: bytes, then: bytes) -> None:
    """What its parser lets through does not trouble its core either."""
    core = Scheduling(Limits(), Random(1))
    core.handle(parse_hello(HELLO), 1.0)
    for data in (first, then):
        with suppress(DecodeError, ProtocolError, UsageError):
            message = p2p_pb2.FromHost.FromString(data)
            hello = message.WhichOneof("message") == "hello"
            event = parse_hello(message) if hello else parse_event(ME, message)
            if event is not None:
                core.handle(event, 2.0)
                core.handle(Tick(), 9.0)
    for host in core.state.hosts.values():
        assert isinstance(host.id, str)
        assert len(host.id) == 32
    assert core.handle(HostHello(host_id=OTHER, address="10.0.0.9:1"), 10.0)


@fuzzed(150)
@given(mutated(TO_HOST))
def test_what_a_scheduler_sends(data: bytes) -> None:
    with suppress(DecodeError, ProtocolError):
        messages.parse(p2p_pb2.ToHost.FromString(data))


REFS = tuple(ChunkRef(bytes([n]) * 32, 100, 0, 50 * n, 50, Codec.ZSTD) for n in range(9))
WISH = ChunkWish(BlobRef(sha256_digest(b"blob"), 1 << 20), "example.org/app", REFS, True, 2).encode()
DOWNLOAD = json.dumps(
    {
        "url": URL, "digest": sha256_digest(b"f"), "tag": "t", "application": "a", "filtered_query": ["x"],
        "headers": [["Authorization", "Bearer x"]], "priority": 3, "range": [5, 9],
    }
).encode()  # fmt: skip


@fuzzed(150)
@given(mutated([WISH, DOWNLOAD]))
def test_bodies_of_requests_to_a_peer(body: bytes) -> None:
    with suppress(UsageError):
        wish = parse_chunk_wish(body)
        assert wish.frame_bytes <= 16 * MIB
        assert parse_chunk_wish(wish.encode()) == wish
    with suppress(CafsError):
        wanted = parse_download(body)
        assert wanted.url.isprintable()


@fuzzed(150)
@given(mutated([encode_have(REFS).encode(), encode_have([1, None, 1]).encode()]), st.integers(0, 600))
def test_the_bitmap_of_an_answer_with_chunks(have: bytes, length: int) -> None:
    with suppress(ProtocolError):
        frames = cut_answer(have.decode("latin-1"), bytes(length), REFS)
        assert sum(len(frame) for frame in frames if frame is not None) == length
        assert all(frame is None or len(frame) == 50 for frame in frames)


BLOB = b"blobs/sha256:" + b"a" * 64
HEADS = [
    b"GET http://h.example:80/v2/a/" + BLOB + b"?ns=x HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\n\r\n",
    b"GET /v2/team/app/manifests/v1?ns=registry.example:5000 HTTP/1.1\r\nHost: 127.0.0.1:65001\r\n\r\n",
    b"GET /v2/app/" + BLOB + b" HTTP/1.1\r\nHost: m\r\nX-Cafs-Digest: sha256:" + b"b" * 64 + b"\r\n\r\n",
    b"CONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\n\r\n",
    b"CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\nProxy-Connection: keep-alive\r\n\r\n",
    b"POST http://u.example/up HTTP/1.1\r\nHost: u\r\nContent-Length: 5\r\nConnection: x, close\r\n\r\n",
    b"GET /hf/org/model/resolve/main/f HTTP/1.0\r\nHost: m\r\nX-Cafs-Priority: 5\r\nX-Cafs-Tag: t\r\n\r\n",
]  # fmt: skip


@fuzzed(250)
@given(mutated(HEADS))
def test_heads_of_requests_to_the_proxy(received: bytes) -> None:
    """As the proxy goes through them, up to what becomes of the request."""
    mirrors, rules = parse_mirrors(("hf=https://huggingface.co",)), parse_rules(("p2p blobs", "blocked evil"))
    with suppress(RequestRefusedError):
        length = find_head(received)
        if length is None:
            return
        head = parse_head(received[:length])
        assert all("\r" not in value and "\n" not in value for _, value in head.fields)
        if head.method == "CONNECT":
            parse_authority(head.target)
            return
        directions = parse_directions(head)
        if head.target.startswith("/"):
            target = parse_origin_form(head.target)
            parse_mirrored(target, head.get("x-cafs-registry"), mirrors, "docker.io")
            return
        plan = plan_request(head, parse_absolute(head.target), directions, rules)
        assert "@" not in str(plan.address.authority)


def part(begin: int, length: int) -> bytes:
    head = (
        f"\r\n--edge\r\nContent-Type: x/y\r\nContent-Range: bytes {begin}-{begin + length - 1}/2048\r\n\r\n"
    )
    return head.encode() + bytes(length)


PARTS = part(0, 3) + part(1000, 40) + part(100, 1) + b"\r\n--edge--\r\n"


@fuzzed(200)
@given(mutated([PARTS, PARTS.replace(b"\r\n--edge--", b"")]))
def test_several_ranges(body: bytes) -> None:
    with suppress(ProtocolError):
        cut = cut_parts(body, b"edge", [Span(0, 3), Span(1000, 40), Span(100, 1)], 2048, "it")
        assert [len(one) for one in cut] == [3, 40, 1]


HEADER_VALUES = [
    b"bytes 0-99/1000", b"bytes */5", b"multipart/byteranges; boundary=edge", b"120",
    b"Fri, 31 Dec 1999 23:59:59 GMT", b'</v2/a/tags/list?n=1&last=x>; rel="next"',
    b"https://u:p@h.example:8443/v2/x?y#z", b"//other/v2", b"../up",
    b'Bearer realm="https://auth.example/t",service="s",scope="repository:a:pull,push"', b'Basic realm="x"',
    b'{"token": "abc", "expires_in": 60, "issued_at": "2020-01-01T00:00:00Z"}',
    b'{"errors": [{"code": "DENIED", "message": "no", "detail": {"x": [1]}}]}',
]  # fmt: skip


@fuzzed(200)
@given(mutated(HEADER_VALUES))
def test_what_registries_and_origins_answer(data: bytes) -> None:
    text = data.decode("latin-1")
    found = parse_content_range(text)
    assert found is None or 0 <= found.first <= found.last
    boundary_of(text)
    wait = parse_retry_after(text, 1e9)
    assert wait is None or wait >= 0
    parse_next_link(text)
    parse_challenges(text)
    assert "\n" not in describe_body(data)
    with suppress(CafsError):
        resolve_location("https://registry.example/v2/", text, "it")
    with suppress(CafsError):
        assert parse_token(data, "it").value


PULL = PullImageRequest(
    image=ImageSpec(image="a.io:5000/team/app:v1"),
    auth=AuthConfig(username="alice", password="p", server_address="https://a.io:5000"),
)
ENCODED = PullImageRequest(
    image=ImageSpec(image="a.io/app"), auth=AuthConfig(auth=base64.b64encode(b"alice:p").decode())
)
SECRET = b'{"host": "a.io:5000", "image": "a.io:5000/team/app", "username": "alice", "secret": "p"}'


@fuzzed(150)
@given(mutated([PULL.SerializeToString(), ENCODED.SerializeToString()]), mutated([SECRET]))
def test_what_is_announced_of_pulls(request: bytes, announced: bytes) -> None:
    """What the one says of a pull, the other one takes."""
    with suppress(UsageError):
        found = credentials_of_pull(request)
        if found is not None:
            with suppress(CafsError):
                parse_pull_secret(json.dumps(found).encode())
    with suppress(CafsError):
        parse_pull_secret(announced)
