"""Which functions a program or library offers, and which it wants of others. Pure.

Read of the dynamic symbol table, which is found by the section headers at a file's end. Source: gABI chapter
4 ("Sections", "Symbol Table"), 64-bit little-endian only. A hint for prefetching, like ``core.elf``: what
makes no sense is nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from cafs.core.elf import HEADER_BYTES

MAX_SECTIONS = 256
SECTION_BYTES = 64
MAX_TABLE_BYTES = 16 << 20
"""Of symbols, and of their names. The largest of Debian have 2 MB."""

_PLACE = struct.Struct("<40xQ10xHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOLS = 11
_FUNCTIONS = frozenset((2, 10))
"""Plain ones, and such as are chosen by what the processor can do."""
_LARGEST = 1 << 40


class Table(NamedTuple):
    """A part of the file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Symbols:
    """Names that cross a file's border."""

    wanted: frozenset[bytes]
    """Functions and variables of other files."""
    functions: dict[bytes, int]
    """What it offers, and at which address."""


def parse_sections_place(head: bytes) -> Table | None:
    """Where the section headers are, by the first bytes of a file that is ELF."""
    if len(head) < HEADER_BYTES:
        return None
    offset, size, count, _ = _PLACE.unpack_from(head)
    if size != SECTION_BYTES or not 0 < count <= MAX_SECTIONS or not 0 < offset <= _LARGEST:
        return None
    return Table(offset, size * count)


def parse_symbol_tables(sections: bytes) -> tuple[Table, Table] | None:
    """The dynamic symbols and their names, by the section headers."""
    headers = list(_SECTION.iter_unpack(sections[: len(sections) // SECTION_BYTES * SECTION_BYTES]))
    for _, kind, _, _, offset, size, names, _, _, one in headers:
        if kind == _SYMBOLS and one == _SYMBOL.size and names < len(headers):
            tables = Table(offset, size), Table(*headers[names][4:6])
            if all(table.offset <= _LARGEST and table.size <= MAX_TABLE_BYTES for table in tables):
                return tables
    return None


def parse_symbols(table: bytes, names: bytes) -> Symbols:
    """The symbols, by the two tables."""
    wanted, functions = set(), {}
    for name_at, info, _, section, address, _ in _SYMBOL.iter_unpack(
        table[: len(table) // _SYMBOL.size * _SYMBOL.size]
    ):
        end = names.find(b"\0", name_at)
        if end <= name_at:
            continue
        if not section:
            wanted.add(names[name_at:end])
        elif info & 15 in _FUNCTIONS:
            functions[names[name_at:end]] = address
    return Symbols(frozenset(wanted), functions)
