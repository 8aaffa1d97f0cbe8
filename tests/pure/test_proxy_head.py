"""Heads of requests: what is read, what is refused, and that h11 never reads another length than we do."""

from __future__ import annotations

from contextlib import suppress

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.proxying.head import MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES, find_head, parse_head
from cafs.core.proxying.refusal import RequestRefusedError

PLAIN = b"GET http://origin/a?b=c HTTP/1.1\r\nHost: origin\r\nX-Thing:  two words \r\n\r\n"


def head_of(*lines: str, target: str = "/", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"POST {target} {version}", *lines, "", ""]).encode("latin-1")


def refusal(head: bytes) -> int:
    try:
        assert find_head(head) == len(head)
        parse_head(head)
    except RequestRefusedError as e:
        return e.status
    pytest.fail("it was not refused")


def test_a_plain_request() -> None:
    head = parse_head(PLAIN)
    assert (head.method, head.target, head.body_bytes) == ("GET", "http://origin/a?b=c", 0)
    assert head.fields == (("host", "origin"), ("x-thing", "two words"))
    assert head.keeps_alive


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"x", b"GET / HTTP/1.1\r\n"]), max_size=12)
)
def test_a_head_in_parts_is_the_same_head(parts: list[bytes]) -> None:
    def look(received: bytes, seen: int) -> int | str | None:
        try:
            return find_head(received, seen)
        except RequestRefusedError as e:
            return str(e)

    received, seen, found = b"", 0, look(b"", 0)
    for part in parts:
        received += part
        found, seen = look(received, seen), len(received)
        assert found == look(received, 0)
        if found is not None:
            break


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    seen = b"GET / HTTP/1.1\nbare\r\n"  # would be refused
    assert find_head(seen + b"X: y\r\n", len(seen)) is None
    with pytest.raises(RequestRefusedError):
        find_head(seen + b"X: y\r\n")


@pytest.mark.parametrize(
    ("lines", "length"),
    [((), 0), (("Content-Length: 12",), 12), (("Transfer-Encoding: chunked",), None)],
)
def test_lengths_of_bodies(lines: tuple[str, ...], length: int | None) -> None:
    assert parse_head(head_of("Host: a", *lines)).body_bytes == length


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "content-length: 6"),
        ("Content-Length: 5, 5",),
        ("Content-Length: +5",),
        ("Content-Length: 0x5",),
        ("Content-Length: -1",),
        ("Content-Length:",),
        ("Content-Length: 1_0",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("X-A: b", " folded"),
        ("X-A: b", "\tfolded"),
        ("Content-Length : 5",),
        (" Content-Length: 5",),
        ("X-A",),
        (": b",),
        ("X\x00A: b",),
        ("X-A: b\x00c",),
        ("X-A: b\x7fc",),
        ("Host: b",),
    ],
)
def test_what_is_read_in_two_ways_is_refused(lines: tuple[str, ...]) -> None:
    assert refusal(head_of("Host: a", *lines)) == 400


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET /\r\nHost: a\r\n\r\n",
        b"GET / HTTQ/1.1\r\nHost: a\r\n\r\n",
        b"G\xe9T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_malformed_heads(head: bytes) -> None:
    assert refusal(head) == 400


def test_other_codings_and_versions() -> None:
    assert refusal(head_of("Host: a", "Transfer-Encoding: gzip, chunked")) == 501
    assert refusal(head_of("Host: a", version="HTTP/2.0")) == 505
    assert parse_head(head_of(version="HTTP/1.0")).http_1_0


def test_too_much() -> None:
    assert refusal(head_of("Host: a", target="/" + "x" * MAX_TARGET_BYTES)) == 414
    assert refusal(head_of("Host: a", *["X: y"] * MAX_FIELDS)) == 431
    with pytest.raises(RequestRefusedError) as refused:
        find_head(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + 1))
    assert refused.value.status == 431
    with pytest.raises(RequestRefusedError) as refused:
        find_head(b"GET /" + b"x" * (MAX_TARGET_BYTES + 200))
    assert refused.value.status == 414


def test_a_head_may_come_in_any_pieces() -> None:
    for cut in range(len(PLAIN)):
        assert find_head(PLAIN[:cut]) is None
    assert find_head(PLAIN + b"body with a \n bare line feed") == len(PLAIN)


_LINES = st.lists(
    st.one_of(
        st.sampled_from(
            ["Host: a", "Content-Length: 3", "Transfer-Encoding: chunked", "Content-Length : 3", " x", "A: b",
             "Transfer-Encoding:\x0bchunked", "transfer-encoding: Chunked", "Connection: content-length"]
        ),
        st.text(st.characters(max_codepoint=255), max_size=20),
    ),
    max_size=5,
)  # fmt: skip


@given(_LINES, st.sampled_from(["GET", "POST", "HEAD"]), st.sampled_from(["HTTP/1.1", "HTTP/1.0"]))
def test_h11_frames_what_we_pass_as_we_do(lines: list[str], method: str, version: str) -> None:
    raw = "\r\n".join([f"{method} /x {version}", *lines, "", ""]).encode("latin-1")
    try:
        length = find_head(raw)
        assert length is not None
        head = parse_head(raw[:length])
    except RequestRefusedError:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw[:length])
    assert isinstance(connection.next_event(), h11.Request)
    if head.body_bytes == 0:
        assert isinstance(connection.next_event(), h11.EndOfMessage)
    elif head.body_bytes is None:
        connection.receive_data(b"2\r\nab\r\n0\r\n\r\n")
        event = connection.next_event()
        assert isinstance(event, h11.Data)
        assert bytes(event.data) == b"ab"
    else:
        connection.receive_data(b"x" * head.body_bytes)
        event = connection.next_event()
        assert isinstance(event, h11.Data)
        assert len(event.data) == head.body_bytes


@given(st.binary(max_size=300))
def test_any_bytes_are_a_head_or_refused(received: bytes) -> None:
    with suppress(RequestRefusedError):
        length = find_head(received)
        if length is not None:
            parse_head(received[:length])
