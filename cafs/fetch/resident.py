"""Keeps a mount server's resident memory small although it maps large files and decodes in threads.

Used by the servers and by ``StoreReader``. Everything here concerns the whole process.

The chunk store and the layer indexes are read through memory maps. Pages that were read once stay in the
process's tables, and count as its resident memory, long after anybody needs them; in a container with a
memory limit they are also the last to be given back. Letting go of the maps' pages costs nothing but
page faults on the next reads, also of whoever reads them at that moment: the bytes stay in the page cache, as
the maps are shared, and what was written to such a map is the file's.

Only the owner of a map may do so, who knows that it is still there: an address that was read from
/proc/self/maps may have become somebody else's private memory, which is lost by it.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Protocol

from cafs.index.mapped_file import release_index_pages

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


class MappedStore(Protocol):
    """A chunk store with a map."""

    def release_pages(self) -> None:
        """Let go of the map's pages."""
        ...


def release_mapped_pages(store: MappedStore | None, limit_bytes: int = MAPPED_LIMIT_BYTES) -> bool:
    """Let go of the pages of store and indexes if more than ``limit_bytes`` of files are resident.

    Returns:
        Whether there was something to do.
    """
    # Third field of proc(5) "statm": resident pages that belong to files.
    if int(Path("/proc/self/statm").read_bytes().split()[2]) * _PAGE_BYTES <= limit_bytes:
        return False
    if store is not None:
        store.release_pages()
    release_index_pages()
    return True
