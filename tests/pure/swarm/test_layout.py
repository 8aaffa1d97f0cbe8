"""Pieces of a content, and bitmaps of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.swarm.layout import (
    MAX_CONTENT_BYTES,
    MAX_PIECE_BYTES,
    MIN_PIECE_BYTES,
    Bitmap,
    Layout,
    parse_layout,
    piece_bytes_for,
)
from cafs.errors import ProtocolError

MIB = 1 << 20
lengths = st.integers(0, MAX_CONTENT_BYTES)
numbers = st.sets(st.integers(0, 2000))


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (None, 1),
        (0, 1),
        (256 * MIB, 1),
        (256 * MIB + 1, 2),
        (512 * MIB, 2),
        (512 * MIB + 1, 4),
        (4096 * MIB, 4),
        (4096 * MIB + 1, 8),
        (16384 * MIB, 16),
        (10**13, 16),
    ],
)
def test_sizes_of_pieces(content: int | None, piece: int) -> None:
    assert piece_bytes_for(content) == piece * MIB


@given(lengths)
def test_pieces_cover_the_content_once(content: int) -> None:
    layout = Layout(content, piece_bytes_for(content))
    count = layout.count
    assert count is not None
    assert MIN_PIECE_BYTES <= layout.piece_bytes <= MAX_PIECE_BYTES
    if count:
        assert (count - 1) * layout.piece_bytes + layout.size(count - 1) == content
        assert 0 < layout.size(count - 1) <= layout.piece_bytes
    assert layout.size(count) == 0


@given(st.integers(0, 50 * MIB), st.integers(0, 50 * MIB))
def test_which_pieces_hold_a_range(first: int, last: int) -> None:
    layout = Layout(51 * MIB, MIB)
    held = layout.holding(first, last)
    assert all(n * MIB <= last and (n + 1) * MIB > first for n in held)
    assert (first <= last) == bool(held)
    if held:
        assert first // MIB == held[0]
        assert last // MIB == held[-1]


@pytest.mark.parametrize(
    "numbers", [(5, 0), (5, 3 * MIB), (-2, MIB), (MAX_CONTENT_BYTES + 1, MIB), (1 << 45, MIB)]
)
def test_layouts_that_cannot_be(numbers: tuple[int, int]) -> None:
    with pytest.raises(ProtocolError):
        parse_layout(*numbers)


def test_a_length_that_is_not_known() -> None:
    assert parse_layout(-1, MIB) == Layout(None, MIB)


@given(numbers)
def test_bitmaps(members: set[int]) -> None:
    bitmap = Bitmap.of(members)
    assert list(bitmap) == sorted(members)
    assert len(bitmap) == len(members)
    assert Bitmap.decode(bitmap.encode(), 2001) == bitmap
    data = bitmap.encode()
    assert all((data[n // 8] >> n % 8 & 1) == (n in members) for n in range(len(data) * 8))
    assert bitmap.is_full(2001) is (len(members) == 2001)


def test_bitmaps_that_claim_too_much() -> None:
    assert list(Bitmap.decode(b"\x07", 3)) == [0, 1, 2]
    with pytest.raises(ProtocolError):
        Bitmap.decode(b"\x08", 3)
    with pytest.raises(ProtocolError):
        Bitmap.decode(bytes(1 << 18), None)
    assert list(Bitmap.full(3)) == [0, 1, 2]
