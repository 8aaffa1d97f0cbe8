"""One 512-byte tar header block, and the numbers and strings in it.

Used by ``cafs.core.tar``, which joins blocks and extension records into entries. Accepts v7, ustar,
GNU, old GNU and star headers. Pure: bytes in, values out. Sources: POSIX.1-2017 pax, "ustar
Interchange Format"; GNU tar manual, "Basic Tar Format"; field offsets beside each use.
"""

from __future__ import annotations

from dataclasses import dataclass

from cafs.errors import IntegrityError

BLOCK_BYTES = 512
ZERO_BLOCK = bytes(BLOCK_BYTES)
MAX_NUMBER = (1 << 63) - 1

EXTENSION_KINDS = frozenset((b"x", b"X", b"g", b"L", b"K"))
"""Headers that describe the next one: PAX, Solaris' PAX, global PAX, GNU's long name and long link."""

_CHECKSUM_AT, _CHECKSUM_END = 148, 156
_BLANK_CHECKSUM = 8 * 0x20
"""The checksum is taken with its own field full of spaces."""


@dataclass(slots=True)
class Header:
    """The fields of one header block, as it says them."""

    name: bytes
    kind: bytes
    """The typeflag, one byte."""
    mode: int
    uid: int
    gid: int
    size: int
    mtime_s: int
    link: bytes
    device: tuple[int, int]
    """(major, minor); (0, 0) for what is no device."""
    block: bytes
    """The block itself, for formats that keep more in it (old GNU sparse)."""


def parse_header(block: bytes) -> Header:
    """Read one header block that is not all zeros. Of an extension header only kind and size are read.

    Raises:
        IntegrityError: wrong checksum, or a field that is no number.
    """
    _check_checksum(block)
    kind = block[156:157]
    size = number_field(block, 124, 136, "size")
    if kind in EXTENSION_KINDS:
        return Header(b"", kind, 0, 0, 0, size, 0, b"", (0, 0), block)
    name = text_field(block, 0, 100)
    magic = block[257:263]
    if magic == b"ustar\0":
        # star keeps times where ustar has the end of the prefix, and signs with "tar\0" at 508.
        prefix = text_field(block, 345, 476 if block[508:512] == b"tar\0" else 500)
        if prefix:
            name = prefix + b"/" + name
    device = (0, 0)
    if kind in (b"3", b"4") and magic[:5] == b"ustar":
        device = (number_field(block, 329, 337, "device"), number_field(block, 337, 345, "device"))
    return Header(
        name=name,
        kind=kind,
        mode=number_field(block, 100, 108, "mode"),
        uid=number_field(block, 108, 116, "uid"),
        gid=number_field(block, 116, 124, "gid"),
        size=size,
        mtime_s=number_field(block, 136, 148, "mtime"),
        link=text_field(block, 157, 257),
        device=device,
        block=block,
    )


def _check_checksum(block: bytes) -> None:
    stated = number_field(block, _CHECKSUM_AT, _CHECKSUM_END, "checksum")
    own = block[_CHECKSUM_AT:_CHECKSUM_END]
    unsigned = sum(block) - sum(own) + _BLANK_CHECKSUM
    if stated == unsigned:
        return
    # Some old tars summed signed chars: each byte above 127 counts 256 less.
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in own)
    if stated != unsigned - 256 * high:
        raise IntegrityError("tar header with a wrong checksum: not a tar, or damaged")


def text_field(block: bytes, start: int, end: int) -> bytes:
    """A field that ends at its first NUL or its full length."""
    stop = block.find(0, start, end)
    return block[start : end if stop < 0 else stop]


def number_field(block: bytes, start: int, end: int, what: str) -> int:
    """An octal field, blank meaning 0, or a base-256 one (GNU, star), which may be negative.

    Raises:
        IntegrityError: neither of these, or beyond 63 bits.
    """
    first = block[start]
    if first & 0x80:
        # Two's complement, big-endian, in all bits but the marking one.
        bits = 8 * (end - start) - 1
        value = int.from_bytes(block[start:end], "big") & ((1 << bits) - 1)
        if first & 0x40:
            value -= 1 << bits
        if not -MAX_NUMBER <= value <= MAX_NUMBER:
            raise IntegrityError(f"tar header with a {what} beyond 63 bits")
        return value
    digits = block[start:end].lstrip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if not digits:
        return 0
    # int() alone would take signs, underscores and inner spaces.
    if digits.strip(b"01234567"):
        raise IntegrityError(f"tar header whose {what} is not a number: {digits!r}")
    return int(digits, 8)
