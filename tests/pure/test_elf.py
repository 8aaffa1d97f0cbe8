"""What is read of the first bytes of programs: of real ones, and of whatever else there may be."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from cafs.core.elf import (
    AROUND_BYTES,
    HEAD_BYTES,
    MAX_NAME_BYTES,
    MAX_NEEDED,
    TABLES_BYTES,
    UNWINDING_BYTES,
    parse_dynamic,
    parse_elf,
    parse_interpreter,
    parse_name,
)
from tests.support.elf_library import PAGE, build_library

PROGRAM = Path("/bin/ls").resolve()


def test_a_real_program() -> None:
    content = PROGRAM.read_bytes()
    elf = parse_elf(content[:HEAD_BYTES])
    assert elf is not None
    assert elf.file_bytes == len(content)
    assert elf.interpreter is not None
    begin, size = elf.interpreter
    interpreter = parse_name(content[begin : begin + size])
    assert interpreter is not None
    assert Path(interpreter.decode()).exists()
    assert elf.dynamic is not None
    begin, size = elf.dynamic
    dynamic = parse_dynamic(content[begin : begin + size])
    assert dynamic is not None
    strings = elf.offset_of(dynamic[0])
    assert strings is not None
    names = [parse_name(content[strings + n :][:MAX_NAME_BYTES]) for n in dynamic[1]]
    assert b"libc.so.6" in names
    code = sum(segment.size for segment in elf.segments if segment.is_code)
    data = sum(end - begin for begin, end in elf.data_ranges())
    assert code > 0
    assert 0 < data <= len(content) - code + AROUND_BYTES
    assert elf.offset_of(1 << 50) is None


def test_the_parts_of_a_library() -> None:
    library = build_library(64 * PAGE, constants_bytes=16 * PAGE)
    elf = parse_elf(library.content[:HEAD_BYTES])
    assert elf is not None
    assert elf.file_bytes == len(library.content)
    assert not elf.is_program
    assert elf.code_range() == library.code
    around_data = library.data[0] - AROUND_BYTES, library.data[1]
    assert elf.data_ranges() == [(0, library.code[0]), library.constants, around_data]
    begin = library.constants[0]
    few = elf.data_ranges(constants=False)
    assert few == [(0, library.code[0]), (begin, begin + AROUND_BYTES), around_data]
    program = parse_elf(build_library(PAGE, interpreter=True).content[:HEAD_BYTES])
    assert program is not None
    assert program.is_program


def test_long_tables_for_unwinding_are_left_out() -> None:
    def constants_end(unwinding_bytes: int) -> int:
        library = build_library(PAGE, constants_bytes=2 * PAGE, unwinding_bytes=unwinding_bytes)
        elf = parse_elf(library.content[:HEAD_BYTES])
        assert elf is not None
        return elf.data_ranges()[1][1] - library.constants[0]

    assert constants_end(TABLES_BYTES // 2) == 2 * PAGE + TABLES_BYTES // 2
    assert constants_end(UNWINDING_BYTES + PAGE) == 2 * PAGE + AROUND_BYTES


def test_large_tables_beside_little_code_are_left_out() -> None:
    for code_bytes, left_out in ((PAGE, True), (TABLES_BYTES + 2 * PAGE, False)):
        library = build_library(code_bytes, constants_bytes=TABLES_BYTES + PAGE)
        elf = parse_elf(library.content[:HEAD_BYTES])
        assert elf is not None
        begin, end = elf.data_ranges()[1]
        assert end == (begin + AROUND_BYTES if left_out else library.constants[1])


def test_code_whose_segment_holds_everything_is_not_told_apart() -> None:
    head = bytearray(build_library(PAGE).content[:HEAD_BYTES])
    head[64 + 4] = 5  # the flags of the first segment
    elf = parse_elf(bytes(head))
    assert elf is not None
    assert elf.code_range() is None


def test_what_is_no_program() -> None:
    content = PROGRAM.read_bytes()[:HEAD_BYTES]
    assert parse_elf(b"") is None
    assert parse_elf(b"#!/bin/sh\n" + bytes(HEAD_BYTES)) is None
    assert parse_elf(content[:100]) is None, "its program headers are not there"
    assert parse_elf(content[:4] + b"\x01" + content[5:]) is None, "32 bits"
    assert parse_elf(content[:16] + b"\x01\x00" + content[18:]) is None, "an object file"
    huge = content[:40] + struct.pack("<Q", 1 << 60) + content[48:]
    assert parse_elf(huge) is None


@given(st.binary(max_size=200), st.integers(0, 300), st.binary(max_size=16))
def test_nothing_makes_it_fail(noise: bytes, place: int, other: bytes) -> None:
    content = bytearray(PROGRAM.read_bytes()[:HEAD_BYTES])
    content[place : place + len(other)] = other
    for head in (bytes(content), b"\x7fELF" + noise, noise):
        elf = parse_elf(head)
        if elf is not None:
            assert 0 <= elf.file_bytes <= 1 << 40
            assert all(begin < end for begin, end in elf.data_ranges())
    parse_dynamic(noise)
    parse_name(noise)
    parse_interpreter(noise)


def test_dynamic_sections() -> None:
    def section(*pairs: tuple[int, int]) -> bytes:
        return b"".join(struct.pack("<qQ", *pair) for pair in pairs)

    assert parse_dynamic(section((5, 4096), (1, 7), (0, 0), (1, 9))) == (4096, [7])
    assert parse_dynamic(section((1, 7), (0, 0))) is None, "no strings"
    assert parse_dynamic(section((5, 4096))) is None, "needs nothing"
    many = parse_dynamic(section((5, 1), *((1, n) for n in range(1000))))
    assert many is not None
    assert len(many[1]) == MAX_NEEDED


def test_names_and_interpreters() -> None:
    assert parse_name(b"libc.so.6\0junk") == b"libc.so.6"
    assert parse_name(b"not ended") is None
    assert parse_name(b"\0") is None
    assert parse_interpreter(b"#!/usr/bin/env python3\nimport x") == [b"/usr/bin/env", b"python3"]
    assert parse_interpreter(b"#! /bin/sh -e\n") == [b"/bin/sh", b"-e"]
    assert parse_interpreter(b"import x") == []
    assert sys.byteorder == "little"
