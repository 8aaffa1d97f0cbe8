"""Wishes for chunks and their answers: what is written is read again, and nonsense is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.chunk_ref import ChunkRef, Codec
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import (
    ChunkWish,
    cut_answer,
    decode_bits,
    encode_bits,
    encode_have,
    parse_chunk_wish,
)
from cafs.errors import ProtocolError, UsageError

BLOB = BlobRef(sha256_digest(b"blob"), 1 << 20)
REFS = tuple(ChunkRef(bytes([n]) * 32, 100, 0, 50 * n, 50, Codec.ZSTD) for n in range(9))
WISH = ChunkWish(BLOB, "example.org/app", REFS, True, 2)


def test_a_wish_is_read_as_it_was_written() -> None:
    assert parse_chunk_wish(WISH.encode()) == WISH


@pytest.mark.parametrize(
    "change",
    [
        {"blob": "sha256:xyz"},
        {"blob": 3},
        {"blob_bytes": -1},
        {"blob_bytes": 100},  # the chunks lie outside
        {"repository": ""},
        {"chunks": []},
        {"chunks": [["00" * 32, 0, 50, 100, 1]] * 2},
        {"chunks": [["00" * 31, 0, 50, 100, 1]]},
        {"chunks": [["zz" * 32, 0, 50, 100, 1]]},
        {"chunks": [["00" * 32, 0, 50, 100, 7]]},
        {"chunks": [["00" * 32, 0, 5 << 20, 100, 1]]},
        {"chunks": [["00" * 32, 0, 50, 100]]},
        {"chunks": [["00" * 32, 0, 50, True, 1]]},
        {"chunks": [[f"{n:064x}", 0, 50, 100, 1] for n in range(1025)]},
        {"urgency": 4},
        {"urgency": 1.5},
    ],
)
def test_what_is_no_wish_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        parse_chunk_wish(json.dumps(json.loads(WISH.encode()) | change).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_refused_in_order(body: bytes) -> None:
    with pytest.raises(UsageError):
        parse_chunk_wish(body)


@given(st.lists(st.booleans(), min_size=9, max_size=9))
def test_answers_are_cut_as_they_were_joined(here: list[bool]) -> None:
    frames = [bytes([n]) * 50 if is_here else None for n, is_here in enumerate(here)]
    body = b"".join(frame for frame in frames if frame is not None)
    cut = cut_answer(encode_have(frames), body, REFS)
    assert [None if frame is None else bytes(frame) for frame in cut] == frames
    for have, answer in ((encode_have(frames), body + b"x"), ("%%", body), (encode_have([1] * 17), body)):
        with pytest.raises(ProtocolError):
            cut_answer(have, answer, REFS)


@given(st.lists(st.booleans(), max_size=40))
def test_bits_are_read_as_they_were_written(true: list[bool]) -> None:
    assert decode_bits(encode_bits(true), len(true)) == true
    if any(true):
        with pytest.raises(ProtocolError):
            decode_bits(encode_bits(true), true.index(True))
