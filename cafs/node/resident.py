"""Keeps the mount server's resident memory small although it maps large files.

The chunk store and the layer indexes are read through memory maps. Pages that were read once stay in the
process's tables, and count as its resident memory, long after anybody needs them; in a container with a
memory limit they are also the last to be given back. Letting go of the maps' pages costs nothing but
page faults on the next reads: the bytes stay in the page cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

_MADV_DONTNEED = 4
MAPPED_LIMIT_BYTES = 48 << 20
_PAGE_BYTES = 4096


def release_mapped_pages(limit_bytes: int = MAPPED_LIMIT_BYTES) -> bool:
    """Let go of the pages of shared file maps if more than ``limit_bytes`` of files are resident.

    Returns:
        Whether there was something to do.
    """
    # Third field of proc(5) "statm": resident pages that belong to files.
    if int(Path("/proc/self/statm").read_bytes().split()[2]) * _PAGE_BYTES <= limit_bytes:
        return False
    libc = ctypes.CDLL(None)
    for start, length in _shared_file_maps():
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED)
    return True


def _shared_file_maps() -> Iterator[tuple[int, int]]:
    """(address, length) of maps of files that are shared with the page cache.

    Only of such may pages be dropped: of a private map, changes would be lost.
    """
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[1].endswith(b"s") and fields[5].startswith(b"/"):
            start, _, end = fields[0].partition(b"-")
            if not fields[5].startswith((b"/memfd:", b"/dev/")):
                yield int(start, 16), int(end, 16) - int(start, 16)
