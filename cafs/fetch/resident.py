"""Keeps a mount server's resident memory small although it maps large files and decodes in threads.

Used by the servers and by ``StoreReader``. Everything here concerns the whole process.

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
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES, _LARGEST_KEPT_BYTES = 128 << 20, 32 << 20
MAPPED_LIMIT_BYTES = 24 << 20
"""Of which the program and its libraries take 15 MiB."""
_PAGE_BYTES = 4096


def allocate_from_one_arena() -> None:
    """Let all threads allocate from one heap; called before there are any.

    By glibc's custom each gets a heap of its own, and what one has freed the others cannot use: decoding
    chunks in four threads kept 35 MiB more, and touching so much new memory took a third of the time.
    Allocations hardly ever meet, as they are made under the interpreter's lock. Other C libraries ignore it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """Let what is freed be used again without asking the kernel; ``give_back_memory`` undoes it now and then.

    For programs through which megabytes pass as one buffer each: by custom every one of them is mapped anew,
    and the kernel clears its pages. Other C libraries ignore it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_memory() -> None:
    """Return to the kernel what was freed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
