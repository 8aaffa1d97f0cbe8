"""Directory blocks of EROFS: how entries are split into blocks, encoded and parsed.

Pure; the writer encodes, the reader parses what may be hostile. Entries are sorted bytewise over the
whole directory, ``.`` and ``..`` included. Format: ``cafs.core.erofs``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from cafs.core.erofs import BLOCK_BYTES, DIRENT, DIRENT_BYTES
from cafs.errors import IntegrityError

Entry = tuple[bytes, int, int]
"""(name, nid, file_type)"""

_NAMEOFF = struct.Struct("<H")
_NAMEOFF_AT = 8
_FIELDS = struct.Struct("<QHBx")


def directory_bytes(names: Iterable[bytes]) -> int:
    """i_size of a directory with these names: full blocks, and what is used of the last."""
    blocks, used = 0, 0
    for name in names:
        entry = DIRENT_BYTES + len(name)
        if used + entry > BLOCK_BYTES:
            blocks, used = blocks + 1, 0
        used += entry
    return blocks * BLOCK_BYTES + used


def encode_directory(entries: Iterable[Entry]) -> Iterator[bytes]:
    """A directory's blocks, together ``directory_bytes`` long: only the last may be shorter than a block."""
    block: list[Entry] = []
    used = 0
    for item in entries:
        entry = DIRENT_BYTES + len(item[0])
        if used + entry > BLOCK_BYTES:
            yield _encode_block(block).ljust(BLOCK_BYTES, b"\0")
            block, used = [], 0
        block.append(item)
        used += entry
    yield _encode_block(block)


def _encode_block(entries: Sequence[Entry]) -> bytes:
    offset = DIRENT_BYTES * len(entries)
    parts = []
    for name, nid, file_type in entries:
        parts.append(DIRENT.pack(nid, offset, file_type, 0))
        offset += len(name)
    return b"".join(parts) + b"".join([name for name, _, _ in entries])


def entry_count(block: memoryview, where: str) -> int:
    """Number of entries of a block.

    Raises:
        IntegrityError: the first name's offset cannot be one.
    """
    if len(block) < DIRENT_BYTES:
        raise IntegrityError(f"{where}: directory block of {len(block)} bytes")
    first: int = _NAMEOFF.unpack_from(block, _NAMEOFF_AT)[0]
    if first % DIRENT_BYTES or not 0 < first < len(block):
        raise IntegrityError(f"{where}: first name offset {first} in a directory block of {len(block)} bytes")
    return first // DIRENT_BYTES


def entry_name(block: memoryview, number: int, count: int, where: str) -> bytes:
    """Name of entry ``number`` of ``count``.

    Raises:
        IntegrityError: it lies outside the block or is empty.
    """
    at = number * DIRENT_BYTES + _NAMEOFF_AT
    start = _NAMEOFF.unpack_from(block, at)[0]
    if number + 1 < count:
        stop = _NAMEOFF.unpack_from(block, at + DIRENT_BYTES)[0]
        name = bytes(block[start:stop])
    else:
        stop = len(block)
        name = bytes(block[start:stop]).partition(b"\0")[0]
    if not count * DIRENT_BYTES <= start < stop <= len(block) or not name:
        raise IntegrityError(f"{where}: name of entry {number} lies outside its block")
    return name


def entry_nid(block: memoryview, number: int) -> int:
    """Nid of entry ``number``."""
    nid: int = DIRENT.unpack_from(block, number * DIRENT_BYTES)[0]
    return nid


def parse_block(block: memoryview, where: str) -> list[Entry]:
    """All entries of a block.

    Raises:
        IntegrityError: offsets, names or their order cannot be; ``where`` names the block.
    """
    count = entry_count(block, where)
    names_start = count * DIRENT_BYTES
    fields = list(_FIELDS.iter_unpack(block[:names_start]))
    raw = bytes(block)
    end = raw.find(b"\0", fields[-1][1])
    if end < 0:
        end = len(raw)
    entries: list[Entry] = []
    stop = end
    for nid, start, file_type in reversed(fields):
        if not names_start <= start < stop:
            raise IntegrityError(f"{where}: a name lies outside its block")
        entries.append((raw[start:stop], nid, file_type))
        stop = start
    if stop != names_start or raw.find(b"/", names_start, end) >= 0 or raw.find(b"\0", names_start, end) >= 0:
        raise IntegrityError(f"{where}: a name has a '/' or NUL in it, or names have gaps")
    entries.reverse()
    return entries
