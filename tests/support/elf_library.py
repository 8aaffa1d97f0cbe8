"""A shared library made byte by byte, as linkers lay one out: headers and symbols, code, constants, data."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PAGE = 4096
_READ, _RUN, _WRITE = 4, 5, 6
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT, _SECTION = struct.Struct("<IIQQQQQQ"), struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_LOAD, _INTERPRETER, _UNWINDING = 1, 3, 0x6474E550


@dataclass(frozen=True)
class Library:
    """The file, and where its parts are."""

    content: bytes
    code: tuple[int, int]
    constants: tuple[int, int]
    data: tuple[int, int]


def build_library(
    code_bytes: int,
    *,
    constants_bytes: int = PAGE,
    unwinding_bytes: int = 0,
    functions: Mapping[bytes, int] | None = None,
    wanted: Sequence[bytes] = (),
    interpreter: bool = False,
    seed: int = 1,
) -> Library:
    """A library.

    Args:
        code_bytes: Of code, a multiple of a page as the other sizes are.
        constants_bytes: Of read-only data behind it.
        unwinding_bytes: Of tables behind that.
        functions: What it offers, by place in its code.
        wanted: Names that it wants of others.
        interpreter: It is a program that is loaded by another.
        seed: Of its random bytes, so that no chunk is another's.
    """
    rng = random.Random(seed)
    names, symbols = b"\0", bytes(24)
    crossing: list[tuple[bytes, int | None]] = [
        *(functions or {}).items(),
        *((name, None) for name in wanted),
    ]
    head_end = _pages(PAGE + 40 * (1 + len(functions or ()) + len(wanted)) + PAGE)
    code = head_end, head_end + code_bytes
    constants = code[1], code[1] + constants_bytes + unwinding_bytes
    data = constants[1], constants[1] + PAGE
    for name, place in crossing:
        address = 0 if place is None else head_end + place
        symbols += _SYMBOL.pack(len(names), 0x12, 0, int(place is not None), address, 1)
        names += name + b"\0"
    segments = [
        (_LOAD, _READ, 0, head_end),
        (_LOAD, _RUN, code[0], code_bytes),
        (_LOAD, _READ, constants[0], constants[1] - constants[0]),
        (_LOAD, _WRITE, data[0], PAGE),
    ]
    if unwinding_bytes:
        segments.append((_UNWINDING, _READ, constants[0] + constants_bytes, 16))
    if interpreter:
        segments.append((_INTERPRETER, _READ, PAGE - 8, 4))
    sections = [(0, 0, 0, 0, 0), (11, PAGE, len(symbols), 2, 24), (3, PAGE + len(symbols), len(names), 0, 0)]
    packed = [
        _SECTION.pack(0, kind, 0, 0, at, size, link, 0, 0, one) for kind, at, size, link, one in sections
    ]
    table = [_SEGMENT.pack(kind, flags, at, at, at, size, size, PAGE) for kind, flags, at, size in segments]
    counts = len(segments), 64, len(packed), 0
    header = _HEADER.pack(b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, data[1], 0, 64, 56, *counts)
    first = (header + b"".join(table)).ljust(PAGE - 8, b"\0") + b"/ld\0".ljust(8, b"\0") + symbols + names
    content = first.ljust(head_end, b"\0") + rng.randbytes(data[1] - head_end) + b"".join(packed)
    return Library(content, code, constants, data)


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE
