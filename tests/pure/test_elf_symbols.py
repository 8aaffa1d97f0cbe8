"""Names that cross a library's border: of real files, and of whatever else there may be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.elf import HEAD_BYTES, parse_elf
from cafs.core.elf_symbols import (
    MAX_SECTIONS,
    MAX_TABLE_BYTES,
    Symbols,
    parse_sections_place,
    parse_symbol_tables,
    parse_symbols,
)
from tests.support.elf_library import PAGE, build_library


def symbols_of(content: bytes) -> Symbols:
    place = parse_sections_place(content[:HEAD_BYTES])
    assert place is not None
    tables = parse_symbol_tables(content[place.offset : place.offset + place.size])
    assert tables is not None
    first, second = [content[table.offset : table.offset + table.size] for table in tables]
    return parse_symbols(first, second)


def test_real_files() -> None:
    program = symbols_of(Path("/bin/ls").resolve().read_bytes())
    library = Path("/lib/x86_64-linux-gnu/libc.so.6").resolve().read_bytes()
    offered = symbols_of(library).functions
    assert {b"malloc", b"exit"} <= program.wanted
    assert {b"malloc", b"exit", b"memcpy"} <= offered.keys()
    elf = parse_elf(library[:HEAD_BYTES])
    assert elf is not None
    code = elf.code_range()
    assert code is not None
    place = elf.offset_of(offered[b"malloc"])
    assert place is not None
    assert code[0] <= place < code[1]


def test_what_was_built() -> None:
    library = build_library(4 * PAGE, functions={b"begin": 0, b"later": 2 * PAGE}, wanted=[b"other"])
    found = symbols_of(library.content)
    assert found.wanted == {b"other"}
    assert found.functions == {b"begin": library.code[0], b"later": library.code[0] + 2 * PAGE}


def test_files_without_sections() -> None:
    head = build_library(PAGE).content[:HEAD_BYTES]
    assert parse_sections_place(head[:63]) is None
    for count in (0, MAX_SECTIONS + 1):
        assert parse_sections_place(head[:60] + struct.pack("<H", count) + head[62:]) is None
    assert parse_sections_place(head[:40] + bytes(8) + head[48:]) is None


@pytest.mark.parametrize(("kind", "size", "link", "one"), [
    (11, 24, 5, 24),
    (11, 24, 0, 16),
    (11, MAX_TABLE_BYTES + 1, 0, 24),
    (2, 24, 0, 24),
])  # fmt: skip
def test_tables_that_cannot_be(kind: int, size: int, link: int, one: int) -> None:
    section = struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, 64, size, link, 0, 0, one)
    assert parse_symbol_tables(section) is None


@given(st.binary(max_size=400), st.binary(max_size=100))
def test_nothing_makes_it_fail(noise: bytes, names: bytes) -> None:
    parse_sections_place(noise)
    parse_symbol_tables(noise)
    found = parse_symbols(noise, names)
    assert all(name and b"\0" not in name for name in (*found.wanted, *found.functions))
