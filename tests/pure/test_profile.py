"""The profile format: what was written is read, and anything else is refused in one line."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.digest import sha256_digest
from cafs.core.profile import MAX_BYTES, MAX_CHUNKS, Profile, encode_profile, locate, parse_profile
from cafs.errors import IntegrityError
from tests.support.fetching import MemoryLayer

LAYERS = tuple(f"sha256:{n:064x}" for n in range(3))
profiles = st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=8, max_size=8)), max_size=50)


@given(profiles)
def test_a_profile_survives_its_encoding(chunks: list[tuple[int, bytes]]) -> None:
    profile = Profile(LAYERS, tuple(chunks))
    assert parse_profile(encode_profile(profile)) == profile


def document(**changes: object) -> bytes:
    return json.dumps({"version": 1, "layers": list(LAYERS), "runs": [], **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"version": 1}',
        b"[" * 100_000,
        b"\xff\xfe",
        document(version=2),
        document(layers=["sha256:short"]),
        document(layers=[1]),
        document(layers=None),
        document(runs=[{"layer": 3, "chunks": ""}]),
        document(runs=[{"layer": -1, "chunks": ""}]),
        document(runs=[{"layer": True, "chunks": ""}]),
        document(runs=[{"layer": 0, "chunks": "00"}]),
        document(runs=[{"layer": 0, "chunks": "zz" * 8}]),
        document(runs=[{"layer": 0, "chunks": 5}]),
        document(runs=[[]]),
        document(runs=[{"layer": 0, "chunks": "00" * 8 * (MAX_CHUNKS + 1)}]),
        document(layers=[LAYERS[0]] * 1025),
        b" " * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_profile_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError) as error:
        parse_profile(content)
    assert "Error" not in str(error.value), "that is for programmers"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_profile_or_an_integrity_error(content: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        parse_profile(content)


def test_a_profile_of_nothing_but_values_is_refused_unread() -> None:
    with pytest.raises(IntegrityError, match="values"):
        parse_profile(b'{"version": 1, "runs": [' + b"[]," * (1 << 20) + b"[]]}")
    chunks = tuple((place % 2, place.to_bytes(8)) for place in range(MAX_CHUNKS // 4))
    layers = (sha256_digest(b"1"), sha256_digest(b"2"))
    assert parse_profile(encode_profile(Profile(layers, chunks))).chunks == chunks


def test_unknown_chunks_are_not_located() -> None:
    table = MemoryLayer([4096] * 5).table
    known = table.row(3).digest[:8]
    assert locate(table, [b"unknown.", known]) == {known: 3}
