"""The planner: any table, any read, any set of missing frames."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from cafs.core.chunk import ChunkRef, Codec
from cafs.core.readplan import coalesce, plan_slices

FIRST = 8192
"""Where the data region of the tables below starts."""


class Rows:
    """A chunk table made of chunk sizes."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.ends = list(accumulate(sizes, initial=FIRST))[1:]

    def __len__(self) -> int:
        return len(self.sizes)

    def row(self, number: int) -> ChunkRef:
        return ChunkRef(bytes(32), self.sizes[number], 0, 0, 1, Codec.RAW)

    def start(self, number: int) -> int:
        return self.ends[number] - self.sizes[number]

    def end(self, number: int) -> int:
        return self.ends[number]

    def find(self, virtual_offset: int) -> int:
        return bisect_right(self.ends, virtual_offset)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(0, 1000), st.integers(0, 1000))
def test_slices_concatenate_to_exactly_the_bytes(sizes: list[int], skip: int, size: int) -> None:
    total = sum(sizes)
    image = bytes(i % 251 for i in range(total))
    starts = [0, *accumulate(sizes)]
    joined = b"".join(
        image[starts[s.row] : starts[s.row + 1]][s.begin : s.end]
        for s in plan_slices(Rows(sizes), FIRST + skip, size)
    )
    assert joined == image[skip : skip + size]


frames = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 60)), max_size=40)


@given(frames, st.integers(1, 200), st.integers(0, 50), st.floats(0, 1))
def test_every_frame_travels_once_within_bounds(
    wanted: list[tuple[int, int]], max_bytes: int, gap: int, waste: float
) -> None:
    ranges = coalesce(wanted, max_bytes=max_bytes, max_gap_bytes=gap, max_waste=waste)
    assert sorted(i for r in ranges for i in r.members) == list(range(len(wanted)))
    for r in ranges:
        covered: set[int] = set()
        for i in r.members:
            offset, length = wanted[i]
            assert r.offset <= offset
            assert offset + length <= r.offset + r.length
            covered.update(range(offset, offset + length))
        assert r.length <= max_bytes or len(r.members) == 1
        assert r.length <= len(covered) * (1 + waste) + 1e-6


def test_neighbours_are_one_request_and_strangers_are_two() -> None:
    ranges = coalesce([(100, 10), (110, 5), (300, 5)], max_bytes=1000)
    assert [(r.offset, r.length) for r in ranges] == [(100, 15), (300, 5)]


def test_a_small_gap_is_bridged_only_where_it_is_cheap() -> None:
    wanted = [(0, 100), (110, 100)]
    assert len(coalesce(wanted, max_bytes=1000, max_gap_bytes=10)) == 1
    assert len(coalesce(wanted, max_bytes=1000, max_gap_bytes=9)) == 2
    assert len(coalesce(wanted, max_bytes=1000, max_gap_bytes=10, max_waste=0.01)) == 2
