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

_HEADER = struct.Struct("<4sBBBB8xHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_CLASS_64, _LITTLE = 2, 1
_EXECUTABLE, _SHARED = 2, 3
_LOAD, _DYNAMIC_SEGMENT, _INTERPRETER = 1, 2, 3
_EXECUTE = 1
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

    def data_ranges(self) -> list[tuple[int, int]]:
        """(offset, end) of what is loaded and is no code: symbols, relocations, data. A loader reads nearly
        all of that, of code only what runs."""
        return [
            (segment.offset, segment.offset + segment.size)
            for segment in self.segments
            if segment.kind == _LOAD and not segment.is_code and segment.size
        ]

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
    end = max([end, *(segment.offset + segment.size for segment in segments)])
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
