"""Several ranges of a blob in one request: its header, and the multipart answer. Pure.

Sources: RFC 9110, 14.2 and 14.6; RFC 2046, 5.1.1. A server may ignore such a request, or answer with the
first range only, or join ranges that are near each other; only the last is an answer that we take.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from cafs.core.source import Span
from cafs.errors import ProtocolError
from cafs.oci.registry.answers import parse_content_range

MOST_RANGES = 32
"""In one request: Apache takes 200, nginx any number, Go (docker-registry, Harbor) what is not longer in sum
than the whole. The header of so many stays below a kilobyte."""
PART_HEAD_BYTES = 1 << 10
_BOUNDARY = re.compile(
    r'multipart/byteranges *;(?:.*;)? *boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70})(?![^\s;,]))', re.IGNORECASE
)


def range_header(spans: Sequence[Span]) -> str:
    """The value of a ``Range`` header."""
    return "bytes=" + ",".join(f"{span.offset}-{span.offset + span.length - 1}" for span in spans)


def boundary_of(content_type: str) -> bytes | None:
    """What separates the parts; None when the answer has no parts."""
    found = _BOUNDARY.match(content_type)
    return (found[1] or found[2]).encode() if found else None


def most_bytes(spans: Sequence[Span]) -> int:
    """No right answer to a request for these is longer."""
    return sum(span.length for span in spans) + (len(spans) + 1) * PART_HEAD_BYTES


def cut_parts(body: bytes, boundary: bytes, spans: Sequence[Span], total: int, what: str) -> list[bytes]:
    """The bytes of each span.

    Args:
        body: The whole answer.
        boundary: Between its parts.
        spans: As asked for.
        total: Size of the blob.
        what: Names the request in errors.

    Raises:
        ProtocolError: the answer has another shape, or lacks bytes.
    """
    parts: list[tuple[int, bytes]] = []
    place = body.find(b"--" + boundary)
    while place >= 0 and not body.startswith(b"--", place + 2 + len(boundary)):
        head_end = body.find(b"\r\n\r\n", place, place + PART_HEAD_BYTES)
        if head_end < 0 or len(parts) >= len(spans):
            raise ProtocolError(f"{what}: answered with parts that are none")
        begin, length = _range_of(body[place:head_end], total, what)
        content = body[head_end + 4 : head_end + 4 + length]
        if len(content) != length:
            raise ProtocolError(f"{what}: a part of the answer is cut short")
        parts.append((begin, content))
        place = body.find(b"--" + boundary, head_end + 4 + length, head_end + 8 + length + len(boundary))
    return [_cut_span(parts, span, what) for span in spans]


def _range_of(head: bytes, total: int, what: str) -> tuple[int, int]:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-range":
            found = parse_content_range(value.decode("latin-1"))
            if found is not None and found.total in {None, total}:
                return found.first, found.last - found.first + 1
    raise ProtocolError(f"{what}: a part of the answer does not say what it is")


def _cut_span(parts: Sequence[tuple[int, bytes]], span: Span, what: str) -> bytes:
    for begin, content in parts:
        if begin <= span.offset and span.offset + span.length <= begin + len(content):
            return content[span.offset - begin : span.offset - begin + span.length]
    raise ProtocolError(
        f"{what}: bytes {span.offset}-{span.offset + span.length - 1} are missing in the answer"
    )
