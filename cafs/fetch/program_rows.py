"""Which chunks of a program or library a start reads. Pure.

Traced over starts of seven containers, chunk by chunk: symbols, relocations and data are read whole; long
tables for unwinding not at all; a program's code nearly whole; a library's either hardly (its constructors,
at the beginning and the end, run whoever needs it) or, where one of its functions is called, more than half.
Used while programs are being read (``programs``), and for profiles (``derive_profile``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cafs.core.elf import Elf
from cafs.fetch.reader import LayerReader

WHOLE_BYTES = 3 << 20
"""Compressed. Of the code of larger ones a start runs a part."""
BLOCK_BYTES = 256 << 10
"""Compressed. Of such a part of a large program's code half is run or more, if any is; waiting for its chunks
one by one took a start of Node 0.4 s longer."""
CODE_BYTES = 320 << 10
"""Compressed. Less code than this costs no more to fetch, 12 ms at 200 Mbit/s, than to wait for."""
MOST_ROWS = 1 << 14
"""Of a file that says it is larger, a gigabyte by our own chunks, nothing is planned: it can say anything."""
CONSTRUCTORS_BYTES = 128 << 10
"""Plain. So much code at the beginning holds the constructors that the compiler makes."""
CONSTRUCTORS_SHARE = 4
"""What they call may lie in the last quarter, so that only code before that says that a library is used."""


class Later(NamedTuple):
    """Code that is fetched once some of it is run."""

    signs: Sequence[int]
    """As soon as one of these rows is read..."""
    rows: Sequence[int]
    """...these will be read as well."""


class ProgramRows(NamedTuple):
    """Rows of a layer, sorted."""

    rows: Sequence[int]
    """To be fetched at once."""
    later: Sequence[Later] = ()
    is_large: bool = False


def plan_rows(layer: LayerReader, offset: int, elf: Elf, *, is_used: bool = False) -> ProgramRows:
    """The rows of a program that is begun.

    Args:
        layer: It is in.
        offset: Where it begins there.
        elf: Its head.
        is_used: It is known to be run. Not of libraries, which may be needed by name only.
    """
    everything = layer.rows_between(offset, offset + elf.file_bytes)
    if len(everything) > MOST_ROWS:
        return ProgramRows(())
    code = elf.code_range()
    is_large = _frame_bytes(layer, everything) > WHOLE_BYTES
    if code is None and not is_large:
        return ProgramRows(everything)
    data = _rows(layer, offset, elf.data_ranges())
    code_rows = _rows(layer, offset, [code] if code else [])
    if is_large:
        return ProgramRows(sorted(data), list(_blocks(layer, sorted(code_rows - data))), is_large=True)
    whole = sorted(data | code_rows)
    if code is None or is_used or elf.is_program or _frame_bytes(layer, code_rows) <= CODE_BYTES:
        return ProgramRows(whole)
    begin, end = code
    first = _rows(layer, offset, [*elf.data_ranges(constants=False), (begin, begin + CONSTRUCTORS_BYTES)])
    middle = (begin + CONSTRUCTORS_BYTES, end - (end - begin) // CONSTRUCTORS_SHARE)
    signs = _rows(layer, offset, [middle]) - first
    return ProgramRows(sorted(first), [Later(sorted(signs), [row for row in whole if row not in first])])


def _blocks(layer: LayerReader, rows: Iterable[int]) -> Iterator[Later]:
    block: list[int] = []
    size = 0
    for row in rows:
        block.append(row)
        size += layer.ref(row).frame_bytes
        if size >= BLOCK_BYTES:
            yield Later(block, block)
            block, size = [], 0
    if block:
        yield Later(block, block)


def _rows(layer: LayerReader, offset: int, ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {row for begin, end in ranges for row in layer.rows_between(offset + begin, offset + end)}


def _frame_bytes(layer: LayerReader, rows: Iterable[int]) -> int:
    return sum(layer.ref(row).frame_bytes for row in rows)
