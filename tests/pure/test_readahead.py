"""Read-ahead: streams are found, windows grow with what was read, and never beyond half of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cafs.core.readahead import FIRST_BYTES, MAX_STREAMS, ReadaheadDetector

MIB = 1 << 20


def test_a_random_reader_gets_nothing() -> None:
    detector = ReadaheadDetector(8 * MIB)
    assert not any(detector.note_read(i * 10 * MIB, i * 10 * MIB + 4096) for i in range(100))


def test_a_small_file_gets_nothing() -> None:
    detector = ReadaheadDetector(8 * MIB)
    assert detector.note_read(0, FIRST_BYTES // 2) is None
    assert detector.note_read(FIRST_BYTES // 2, FIRST_BYTES - 1) is None


def test_one_large_read_is_no_stream() -> None:
    assert ReadaheadDetector(8 * MIB).note_read(0, MIB) is None


@given(st.lists(st.integers(4096, MIB), min_size=1, max_size=200))
def test_a_stream_is_followed_without_gap_and_within_half_of_what_it_read(sizes: list[int]) -> None:
    detector = ReadaheadDetector(8 * MIB)
    position, ahead = 0, None
    for size in sizes:
        position += size
        window = detector.note_read(position - size, position)
        if window is not None:
            begin, end = window
            assert begin == max(position, ahead or 0)
            assert begin < end <= position + min(position // 2, 8 * MIB)
            ahead = end
    if position - sizes[-1] >= FIRST_BYTES:
        assert ahead is not None


def test_streams_side_by_side_are_kept_apart() -> None:
    detector = ReadaheadDetector(8 * MIB)
    starts = [i << 30 for i in range(MAX_STREAMS)]
    for step in range(2):
        for start in starts:
            detector.note_read(start + step * 128 * 1024, start + (step + 1) * 128 * 1024)
    following = [detector.note_read(s + 256 * 1024, s + 512 * 1024) for s in starts]
    assert all(following)
