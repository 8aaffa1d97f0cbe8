"""The chunk table: any rows in, the same out; every offset finds its row; the planner over real tables."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.chunk_ref import DIGEST_BYTES, MAX_CHUNK_BYTES, ChunkRef, Codec
from cafs.core.chunk_table import ROW, ROW_BYTES, ChunkTable, encode_row
from cafs.core.readplan import plan_slices
from cafs.errors import IntegrityError

chunk_refs = st.builds(
    ChunkRef,
    digest=st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES),
    plain_bytes=st.one_of(st.integers(1, 60), st.integers(1, MAX_CHUNK_BYTES)),
    blob=st.integers(0, 2**32 - 1),
    offset=st.integers(0, 2**63),
    frame_bytes=st.integers(0, 2**32 - 1),
    codec=st.sampled_from(Codec),
)
data_starts = st.integers(0, 2**44).map(lambda block: block * 4096)


def table_of(refs: list[ChunkRef], data_start: int) -> ChunkTable:
    ends = list(accumulate((ref.plain_bytes for ref in refs), initial=data_start))[1:]
    rows = b"".join(encode_row(end, ref) for end, ref in zip(ends, refs, strict=True))
    return ChunkTable(memoryview(rows), data_start)


@given(st.lists(chunk_refs, max_size=20), data_starts)
def test_any_rows_come_back_as_they_were(refs: list[ChunkRef], data_start: int) -> None:
    table = table_of(refs, data_start)
    starts = list(accumulate((ref.plain_bytes for ref in refs), initial=data_start))
    assert len(table) == len(refs)
    assert list(table.rows(0, len(table))) == list(zip(starts, refs, strict=False))
    assert [table.end(row) for row in range(len(refs))] == starts[1:]
    assert table.data_end == starts[-1]


@given(st.lists(chunk_refs, min_size=1, max_size=20), data_starts, st.data())
def test_every_offset_finds_the_row_that_a_look_at_all_finds(
    refs: list[ChunkRef], data_start: int, data: st.DataObject
) -> None:
    table = table_of(refs, data_start)
    edges = [edge for row in range(len(refs)) for edge in (table.start(row), table.end(row) - 1)]
    offset = data.draw(st.one_of(st.sampled_from(edges), st.integers(data_start, table.data_end - 1)))
    (expected,) = (row for row in range(len(refs)) if table.start(row) <= offset < table.end(row))
    assert table.find(offset) == expected


@given(st.lists(chunk_refs, max_size=5), data_starts.filter(bool))
def test_offsets_outside_are_in_no_row(refs: list[ChunkRef], data_start: int) -> None:
    table = table_of(refs, data_start)
    for outside in (0, data_start - 1, table.data_end, table.data_end + 1):
        with pytest.raises(IndexError):
            table.find(outside)


@given(
    st.lists(chunk_refs.map(lambda ref: ref._replace(plain_bytes=ref.plain_bytes % 50 + 1)), max_size=30),
    data_starts,
    st.integers(0, 1000),
    st.integers(0, 1000),
)
def test_the_planner_reads_exactly_the_bytes_of_a_real_table(
    refs: list[ChunkRef], data_start: int, skip: int, size: int
) -> None:
    table = table_of(refs, data_start)
    image = bytes(i % 251 for i in range(sum(ref.plain_bytes for ref in refs)))
    joined = b"".join(
        image[table.start(part.row) - data_start :][: refs[part.row].plain_bytes][part.begin : part.end]
        for part in plan_slices(table, data_start + skip, size)
    )
    assert joined == image[skip : skip + size]


@given(st.binary(min_size=ROW_BYTES, max_size=4 * ROW_BYTES), st.integers(0, 2**64 - 1))
def test_rows_of_any_bytes_give_bounded_chunks_or_integrity_errors(raw: bytes, data_start: int) -> None:
    table = ChunkTable(memoryview(raw), data_start)
    for row in range(len(table)):
        try:
            ref = table.row(row)
        except IntegrityError:
            continue
        assert 0 < ref.plain_bytes <= MAX_CHUNK_BYTES
        assert ref.digest == ROW.unpack_from(raw, row * ROW_BYTES)[1]
