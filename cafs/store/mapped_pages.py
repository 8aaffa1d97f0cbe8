"""Letting go of the resident pages of a file's shared maps.

Used by ``environment``: LMDB does not tell where its map is.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_MADV_DONTNEED = 4
_libc = ctypes.CDLL(None)


def release_file_pages(path: Path) -> None:
    """Have the pages come back from the page cache when they are next read.

    The caller sees to it that nobody unmaps the file meanwhile: what comes to lie there would lose its pages.

    Args:
        path: Of the file, resolved.
    """
    for start, length in _shared_maps(os.fsencode(path)):
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED)


def _shared_maps(path: bytes) -> Iterator[tuple[int, int]]:
    """(address, length) of each. Of a private map, changes would be lost."""
    for line in Path("/proc/self/maps").read_bytes().split(b"\n")[:-1]:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1].endswith(b"s") and fields[5] == path:
            start, _, end = fields[0].partition(b"-")
            yield int(start, 16), int(end, 16) - int(start, 16)
