"""Which chunks a read needs, and which ranges of which blobs bring the missing ones. Pure.

A read of the virtual image becomes *slices* of chunk rows (``plan_slices``). Rows that nobody holds
become range requests: neighbours in a blob travel together (``coalesce``). The shell
(``cafs.fetch``) does the I/O that these functions decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cafs.core.chunk_ref import ChunkRef


class RowTable(Protocol):
    """What planning needs of a chunk table: rows in virtual order, without gaps."""

    def __len__(self) -> int: ...

    def row(self, number: int, /) -> ChunkRef:
        """The chunk of that row."""
        ...

    def start(self, number: int, /) -> int:
        """First byte of the row's range in the virtual image."""
        ...

    def end(self, number: int, /) -> int:
        """End of the row's range in the virtual image."""
        ...

    def find(self, virtual_offset: int, /) -> int:
        """The row that holds this byte."""
        ...


@dataclass(frozen=True, slots=True)
class Slice:
    """Bytes ``begin`` to ``end`` of the plain chunk of a row."""

    row: int
    begin: int
    end: int


def plan_slices(table: RowTable, offset: int, size: int) -> list[Slice]:
    """The slices that, joined, are ``size`` bytes from ``offset`` of the data region.

    ``offset`` must not lie before the first row. What lies past the last row is left out.
    """
    slices: list[Slice] = []
    rows = len(table)
    if size <= 0 or not rows or offset >= table.end(rows - 1):
        return slices
    row, wanted_end = table.find(offset), offset + size
    start = table.start(row)
    while row < rows and start < wanted_end:
        end = table.end(row)
        slices.append(Slice(row, max(offset - start, 0), min(wanted_end, end) - start))
        row, start = row + 1, end
    return slices


@dataclass(frozen=True, slots=True)
class BlobRange:
    """One range request, and the members (numbers into the planner's input) whose frames it brings."""

    offset: int
    length: int
    members: tuple[int, ...]


def coalesce(
    frames: Sequence[tuple[int, int]], *, max_bytes: int, max_gap_bytes: int = 0, max_waste: float = 0.25
) -> list[BlobRange]:
    """Join frames of one blob into range requests.

    Args:
        frames: (offset, length) of each wanted frame, in any order; they may repeat.
        max_bytes: No request is longer, but for a single frame that is.
        max_gap_bytes: A gap up to this long costs less than a request of its own.
        max_waste: Bytes of gaps in one request, as a part of its wanted bytes, stay at or below this.

    Returns:
        Requests in order of offset. Every frame is a member of exactly one.
    """
    order = sorted(range(len(frames)), key=lambda i: frames[i])
    ranges: list[BlobRange] = []
    members: list[int] = []
    begin = end = wanted = 0
    for i in order:
        offset, length = frames[i]
        gap, grown_end = max(offset - end, 0), max(end, offset + length)
        new_bytes = grown_end - max(end, offset)
        joins = (
            members
            and gap <= max_gap_bytes
            and grown_end - begin <= max_bytes
            and grown_end - begin <= (wanted + new_bytes) * (1 + max_waste)
        )
        if not joins:
            if members:
                ranges.append(BlobRange(begin, end - begin, tuple(members)))
            members, begin, end, wanted = [], offset, offset, 0
            grown_end, new_bytes = offset + length, length
        members.append(i)
        end, wanted = grown_end, wanted + new_bytes
    if members:
        ranges.append(BlobRange(begin, end - begin, tuple(members)))
    return ranges
