"""``POST /v1/chunks``: chunks of an image's blob by their digests, as they are asked for and answered. Pure.

Spoken by the mount server to its node's peer (socket), and by peers to each other (upload server).
docs/peer.md describes it for people.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cafs.core.chunk_ref import DIGEST_BYTES, MAX_CHUNK_BYTES, ChunkRef, Codec
from cafs.core.digest import parse_digest
from cafs.core.source import BlobRef
from cafs.errors import ProtocolError, UsageError

CHUNKS_PATH = "/v1/chunks"
HAVE_HEADER = "x-cafs-have"
STORE_HEADER = "x-cafs-store"
"""On the node socket: the chunk store that the frames lie in or will lie in, percent-encoded. In a request
that nobody waits for: the mount's own, and what lies or will lie in there need not be sent."""
STORED_HEADER = "x-cafs-stored"
"""A bitmap as ``HAVE_HEADER``'s, of the wanted chunks that need not be and are not in the answer."""
MAX_CHUNKS = 1024
MAX_ANSWER_BYTES = 16 << 20
_MAX_FRAME_BYTES = MAX_CHUNK_BYTES + (64 << 10)
_MAX_REPOSITORY_LETTERS = 512
LEAST_URGENT = 3


@dataclass(frozen=True, slots=True)
class ChunkWish:
    """Chunks of one blob."""

    blob: BlobRef
    repository: str
    """Where the blob lies: ``HOST[:PORT]/REPOSITORY``."""
    refs: tuple[ChunkRef, ...]
    may_fetch: bool
    """Whoever is asked may go to the registry for them, with credentials of its own."""
    urgency: int = 0
    """0: a reader waits; 1, 2: it soon may; 3: nobody does (``cafs.fetch.limits.Priority``)."""

    @property
    def frame_bytes(self) -> int:
        return sum(ref.frame_bytes for ref in self.refs)

    def encode(self) -> bytes:
        """The request's body."""
        chunks = [[r.digest.hex(), r.offset, r.frame_bytes, r.plain_bytes, int(r.codec)] for r in self.refs]
        document = {
            "blob": self.blob.digest,
            "blob_bytes": self.blob.size,
            "repository": self.repository,
            "chunks": chunks,
            "may_fetch": self.may_fetch,
            "urgency": self.urgency,
        }
        return json.dumps(document, separators=(",", ":")).encode()


def parse_chunk_wish(body: bytes) -> ChunkWish:
    """Read a request's body.

    Raises:
        UsageError: it is none, or asks for too much or for what cannot be.
    """
    try:
        document = json.loads(body)
        blob = BlobRef(parse_digest(document["blob"]), _number(document["blob_bytes"], (1 << 63) - 1))
        rows, repository = document["chunks"], document["repository"]
        if not isinstance(repository, str) or not 0 < len(repository) <= _MAX_REPOSITORY_LETTERS:
            raise UsageError("'repository' must be HOST/REPOSITORY")
        if not isinstance(rows, list) or not 0 < len(rows) <= MAX_CHUNKS:
            raise UsageError(f"1 to {MAX_CHUNKS} chunks can be asked for at once")
        wish = ChunkWish(
            blob,
            repository,
            tuple(_parse_ref(row, blob) for row in rows),
            document.get("may_fetch") is True,
            _number(document.get("urgency", 0), LEAST_URGENT),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UsageError(f"the body is no wish for chunks: {type(e).__name__}: {str(e)[:80]}") from None
    if wish.frame_bytes > MAX_ANSWER_BYTES:
        raise UsageError(f"at most {MAX_ANSWER_BYTES} bytes can be asked for at once")
    if len({ref.digest for ref in wish.refs}) != len(wish.refs):
        raise UsageError("a chunk is asked for twice")
    return wish


def _parse_ref(row: Any, blob: BlobRef) -> ChunkRef:
    digest_hex, offset, frame_bytes, plain_bytes, codec = row
    digest = bytes.fromhex(digest_hex)
    if len(digest) != DIGEST_BYTES:
        raise ValueError("a digest has 32 bytes")
    ref = ChunkRef(
        digest,
        _number(plain_bytes, MAX_CHUNK_BYTES),
        0,
        _number(offset, blob.size),
        _number(frame_bytes, _MAX_FRAME_BYTES),
        Codec(codec),
    )
    if ref.offset + ref.frame_bytes > blob.size:
        raise ValueError("a chunk lies outside its blob")
    return ref


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"not a number from 0 to {most}")
    return value


def encode_have(frames: Sequence[object | None]) -> str:
    """The header that says which of the wanted frames are in the answer, in their order; 0 bits are not."""
    return encode_bits([frame is not None for frame in frames])


def encode_bits(true: Sequence[bool]) -> str:
    """One bit for each wanted chunk."""
    bits = sum(1 << place for place, one in enumerate(true) if one)
    return base64.b64encode(bits.to_bytes((len(true) + 7) // 8, "little")).decode()


def decode_bits(text: str, count: int) -> list[bool]:
    """What ``encode_bits`` made, of so many chunks.

    Raises:
        ProtocolError: it is none.
    """
    try:
        bits = int.from_bytes(base64.b64decode(text, validate=True), "little")
    except (binascii.Error, ValueError):
        raise ProtocolError("the answer does not say which chunks it has") from None
    if bits >> count:
        raise ProtocolError("the answer has more chunks than were asked for")
    return [bool(bits >> place & 1) for place in range(count)]


def cut_answer(have: str, body: bytes, refs: Sequence[ChunkRef]) -> list[memoryview | None]:
    """The frames in an answer, not verified; None for those that were not sent.

    Raises:
        ProtocolError: header, lengths and wish do not fit each other.
    """
    frames: list[memoryview | None] = []
    view, offset = memoryview(body), 0
    for ref, here in zip(refs, decode_bits(have, len(refs)), strict=True):
        if here:
            frames.append(view[offset : offset + ref.frame_bytes])
            offset += ref.frame_bytes
        else:
            frames.append(None)
    if offset != len(body):
        raise ProtocolError(f"an answer of {len(body)} bytes where its chunks have {offset}")
    return frames
