"""Several ranges in one request: only an answer that holds all of them, where it says they are, is taken."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.source import Span
from cafs.errors import ProtocolError
from cafs.oci.registry.byteranges import boundary_of, cut_parts, most_bytes, range_header

BLOB = bytes(range(256)) * 8
SPANS = [Span(0, 3), Span(1000, 40), Span(100, 1)]


def part(begin: int, length: int, total: str = str(len(BLOB)), name: str = "Content-Range") -> bytes:
    head = f"\r\n--edge\r\nContent-Type: x/y\r\n{name}: bytes {begin}-{begin + length - 1}/{total}\r\n\r\n"
    return head.encode() + BLOB[begin : begin + length]


def answer(*parts: bytes) -> bytes:
    return b"".join(parts) + b"\r\n--edge--\r\n"


def cut(body: bytes) -> list[bytes]:
    return cut_parts(body, b"edge", SPANS, len(BLOB), "it")


WANTED = [BLOB[0:3], BLOB[1000:1040], BLOB[100:101]]


def test_what_is_asked() -> None:
    assert range_header(SPANS) == "bytes=0-2,1000-1039,100-100"


@pytest.mark.parametrize(
    "body",
    [
        answer(part(0, 3), part(1000, 40), part(100, 1)),
        answer(part(100, 1), part(0, 3), part(1000, 40)),
        answer(part(0, 200), part(1000, 40)),  # joined, as a server may
        answer(part(0, 3, "*"), part(1000, 40), part(100, 1, name="content-range")),
        b"preamble" + answer(part(0, 3), part(1000, 40), part(100, 1)) + b"epilogue",
    ],
)
def test_answers_that_are_taken(body: bytes) -> None:
    assert cut(body) == WANTED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        answer(),
        answer(part(0, 3), part(1000, 40)),
        answer(part(0, 3), part(1000, 39), part(100, 1)),
        answer(part(0, 3, "4000"), part(1000, 40), part(100, 1)),
        answer(part(0, 3, name="Content-Rage"), part(1000, 40), part(100, 1)),
        answer(part(0, 3), part(1000, 40), part(100, 1), part(200, 1)),
        answer(part(0, 3), part(1000, 40), part(100, 1))[:-30],
        part(0, 3) + b"\r\n--edge\r\n",
        part(0, 3) + b"\r\n--edge\r\n" + b"x" * 5000,
    ],
)
def test_answers_that_are_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        cut(body)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_damaged_answers(noise: bytes, place: int) -> None:
    whole = answer(part(0, 3), part(1000, 40), part(100, 1))
    for body in (whole[:place] + noise + whole[place + len(noise) :], noise):
        with suppress(ProtocolError):
            assert [len(one) for one in cut(body)] == [3, 40, 1]


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/byteranges; boundary=edge", b"edge"),
        ('Multipart/ByteRanges;boundary="a b"', b"a b"),
        ("multipart/byteranges; charset=x; boundary=edge; y=z", b"edge"),
        ("application/octet-stream", None),
        ("multipart/byteranges", None),
        ("multipart/byteranges; boundary=" + "x" * 71, None),
    ],
)
def test_the_boundary(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


def test_how_long_an_answer_may_be() -> None:
    assert len(answer(*(part(*span) for span in SPANS))) < most_bytes(SPANS) < 5000
