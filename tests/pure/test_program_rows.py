"""What a program says of its size costs whoever plans its rows no more than a few looks at each."""

from __future__ import annotations

import struct
from typing import cast

from cafs.core.chunk import ChunkRef, Codec
from cafs.core.elf import Elf, parse_elf
from cafs.fetch.program_rows import BLOCK_BYTES, MOST_ROWS, WHOLE_BYTES, plan_rows
from cafs.fetch.reader import LayerReader

CHUNK = 256
FRAME = WHOLE_BYTES // MOST_ROWS + 1


class CountingLayer:
    """Equal chunks, and how often one was looked at."""

    def __init__(self) -> None:
        self.looks = 0

    def ref(self, _row: int) -> ChunkRef:
        self.looks += 1
        return ChunkRef(bytes(32), CHUNK, 0, 0, FRAME, Codec.ZSTD)

    def rows_between(self, offset: int, end: int) -> range:
        return range(offset // CHUNK, -(-end // CHUNK))


def program(size: int) -> Elf:
    """One that is all code, but for its first page."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 3, 62, 1, 0, 64, size - 64, 0, 64, 56, 1, 64, 1, 0)
    code = struct.pack("<IIQQQQQQ", 1, 5, 4096, 4096, 4096, size - 4096, size - 4096, 4096)
    elf = parse_elf(header + code + bytes(4096))
    assert elf is not None
    return elf


def test_blocks_of_many_small_chunks() -> None:
    layer = CountingLayer()
    plan = plan_rows(cast("LayerReader", layer), 0, program(MOST_ROWS * CHUNK))
    assert plan.is_large
    rows = [row for later in plan.later for row in later.rows]
    assert rows == list(range(4096 // CHUNK, MOST_ROWS))
    assert all(len(later.rows) == -(-BLOCK_BYTES // FRAME) for later in plan.later[:-1])
    assert layer.looks <= 3 * MOST_ROWS


def test_what_says_that_it_is_larger_than_any_program_is_left_alone() -> None:
    layer = CountingLayer()
    plan = plan_rows(cast("LayerReader", layer), 0, program((MOST_ROWS + 1) * CHUNK))
    assert not plan.rows
    assert not plan.later
    assert not layer.looks
