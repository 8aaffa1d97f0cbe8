"""What the first bytes of a program say of what a start reads of it. Pure.

Read of an ELF file: how long it is, which of its parts are not code, which libraries it needs, which
program loads it; of a script: its interpreter. Source: gABI chapters 4 and 5, 64-bit little-endian only,
which is every machine that containers run on today. Everything here is a hint for prefetching: what makes no
sense is None.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MAGIC = b"\x7fELF"
HEAD_BYTES = 4096
"""So much of a file's beginning is enough: the header, and program headers right behind it."""
MAX_DYNAMIC_BYTES = 64 << 10
MAX_NAME_BYTES = 256
MAX_NEEDED = 128
AROUND_BYTES = 32 << 10
"""What the kernel reads of a mapped file before and behind the page that is touched: EROFS's readahead."""
UNWINDING_BYTES = 640 << 10
"""Shorter tables for unwinding lie so near to what is read that a start waited for parts of them."""
TABLES_BYTES = 256 << 10
"""Read-only data beyond this that outweighs a library's code are tables, as ICU's and libunistring's: of such
a start read 5%, of what goes with much code nine tenths."""

_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")
HEADER_BYTES = _HEADER.size
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_CLASS_64, _LITTLE = 2, 1
_EXECUTABLE, _SHARED = 2, 3
_LOAD, _DYNAMIC_SEGMENT, _INTERPRETER, _UNWINDING = 1, 2, 3, 0x6474E550
_EXECUTE, _WRITE = 1, 2
_NEEDED, _STRINGS = 1, 5
_LARGEST = 1 << 40
_MAX_SEGMENTS = 64


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header."""

    kind: int
    flags: int
    offset: int
    address: int
    size: int
    """In the file."""

    @property
    def end(self) -> int:
        """Of it in the file."""
        return self.offset + self.size

    @property
    def is_code(self) -> bool:
        """Loaded to be executed."""
        return self.kind == _LOAD and bool(self.flags & _EXECUTE)


@dataclass(frozen=True, slots=True)
class Elf:
    """An executable or a shared library."""

    file_bytes: int
    """Length of the file: the section headers are its end."""
    segments: tuple[Segment, ...]

    @property
    def dynamic(self) -> tuple[int, int] | None:
        """(offset, size) of the dynamic section."""
        return self._segment(_DYNAMIC_SEGMENT, MAX_DYNAMIC_BYTES)

    @property
    def interpreter(self) -> tuple[int, int] | None:
        """(offset, size) of the name of the program that loads this one."""
        return self._segment(_INTERPRETER, MAX_NAME_BYTES)

    @property
    def is_program(self) -> bool:
        """It is run by itself: its code is what the start is for. (So is the C library, which all use.)"""
        return self.interpreter is not None

    def code_range(self) -> tuple[int, int] | None:
        """(offset, end) of the code; None if there is none, or the code's segment holds all else, too."""
        code = [segment for segment in self.segments if segment.is_code and segment.size]
        if not code or any(segment.offset == 0 for segment in code):
            return None
        return min(one.offset for one in code), max(one.end for one in code)

    def data_ranges(self, *, constants: bool = True) -> list[tuple[int, int]]:
        """(offset, end) of what a loader reads nearly all of: symbols, relocations, data.

        Neither code nor long tables for unwinding, which are read when an exception is thrown; linkers put
        them at the end of their segment. Nor other large tables (``TABLES_BYTES``).

        Args:
            constants: Also the data that only code reads.
        """
        code_bytes = sum(segment.size for segment in self.segments if segment.is_code)
        ranges = []
        for segment in self.segments:
            if segment.kind != _LOAD or segment.is_code or not segment.size:
                continue
            end = self._unwinding_in(segment) or segment.end
            is_wanted = constants and end - segment.offset <= max(TABLES_BYTES, code_bytes)
            if segment.offset and not segment.flags & _WRITE and not is_wanted:
                end = min(end, segment.offset + AROUND_BYTES)
            begin = segment.offset - AROUND_BYTES if segment.flags & _WRITE else segment.offset
            ranges.append((max(begin, 0), end))
        return ranges

    def _unwinding_in(self, segment: Segment) -> int | None:
        """Where what is read of the segment ends, if long tables for unwinding follow."""
        begins = [
            one.offset
            for one in self.segments
            if one.kind == _UNWINDING and segment.offset <= one.offset < segment.end - UNWINDING_BYTES
        ]
        return min(begins) + AROUND_BYTES if begins else None

    def offset_of(self, address: int) -> int | None:
        """Where in the file the byte lies that is loaded at this address."""
        for segment in self.segments:
            if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
                return address - segment.address + segment.offset
        return None

    def _segment(self, kind: int, most: int) -> tuple[int, int] | None:
        for segment in self.segments:
            if segment.kind == kind and 0 < segment.size <= most:
                return segment.offset, segment.size
        return None


def parse_elf(head: bytes | memoryview) -> Elf | None:
    """Read the beginning of a file; None for anything but a program or a library."""
    if len(head) < _HEADER.size:
        return None
    (
        magic,
        width,
        order,
        _,
        _,
        kind,
        _,
        _,
        _,
        place,
        sections,
        _,
        _,
        size,
        count,
        section_size,
        section_count,
        _,
    ) = _HEADER.unpack_from(head)
    end = sections + section_size * section_count
    table_end = place + size * count
    if (
        (magic, width, order) != (MAGIC, _CLASS_64, _LITTLE)
        or kind not in {_EXECUTABLE, _SHARED}
        or size != _PROGRAM_HEADER.size
        or not 0 < count <= _MAX_SEGMENTS
        or table_end > len(head)
    ):
        return None
    segments = []
    for number in range(count):
        what, flags, offset, address, _, in_file, _, _ = _PROGRAM_HEADER.unpack_from(
            head, place + number * size
        )
        if max(offset, in_file) > _LARGEST:
            return None
        segments.append(Segment(what, flags, offset, address, in_file))
    end = max([end, *(segment.end for segment in segments)])
    return Elf(end, tuple(segments)) if end <= _LARGEST else None


def parse_dynamic(section: bytes | memoryview) -> tuple[int, list[int]] | None:
    """Of a dynamic section: address of the string table, offsets in it of the names of needed libraries."""
    strings = 0
    needed: list[int] = []
    for tag, value in _DYNAMIC.iter_unpack(section[: len(section) // _DYNAMIC.size * _DYNAMIC.size]):
        if tag == 0:
            break
        if tag == _NEEDED and len(needed) < MAX_NEEDED and value <= _LARGEST:
            needed.append(value)
        elif tag == _STRINGS:
            strings = value
    return (strings, needed) if strings and needed else None


def parse_name(content: bytes | memoryview) -> bytes | None:
    """A name that ends with NUL; None when it is none that a file could have."""
    name, end, _ = bytes(content).partition(b"\0")
    return name if end and name and len(name) < MAX_NAME_BYTES else None


def parse_interpreter(head: bytes | memoryview) -> list[bytes]:
    """The interpreter of a script and its argument; empty for what is no script."""
    line = bytes(head[:MAX_NAME_BYTES])
    return line[2:].partition(b"\n")[0].split(maxsplit=1) if line.startswith(b"#!") else []
