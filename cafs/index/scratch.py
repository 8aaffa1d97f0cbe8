"""``Scratch``: tables that may outgrow memory, for a layer while it is converted.

Rows lie in temporary files that have no name and are mapped. What was written and is not used just now
is the kernel's to write out and to drop, as of any file; so that it is not counted as the process's
either, ``settle`` unmaps all pages when too many are resident. They come back one fault at a time.

Used by ``cafs.index.columns``, ``layout`` and the converter. Synchronous. One thread appends and
settles; others may read rows that were complete when they learned of them: a map is never closed
under a reader, growing replaces it by a larger one of the same file.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

RESIDENT_MAX_BYTES = 128 << 20
SETTLE_EVERY = 128
"""Rows, at most, between two calls of ``settle``. A fault maps 64 KiB: rows that lie anywhere in four tables
take 32 MiB meanwhile."""
_FIRST_BYTES = 1 << 14


class Scratch:
    """The tables of one layer. They go with the last reference to them."""

    def __init__(self, folder: Path | None = None, resident_max_bytes: int = RESIDENT_MAX_BYTES) -> None:
        """An empty one.

        Args:
            folder: Where the files lie; None keeps them in memory, for what is known to be small.
            resident_max_bytes: From how much on ``settle`` gives memory back. All that is mapped in the
                process counts, programs and libraries (some 30 MiB) too.
        """
        self._folder = folder
        self._resident_max_bytes = resident_max_bytes
        self._tables: list[Rows] = []
        self._statm = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        os.close(self._statm)

    def rows(self, row_bytes: int, capacity: int = 0) -> Rows:
        """A new table of zeros with room for at least ``capacity`` rows."""
        rows = Rows(self._open(), row_bytes, capacity)
        self._tables.append(rows)
        return rows

    def drop(self, rows: Rows) -> None:
        """Forget a table that is no longer needed."""
        self._tables.remove(rows)

    def settle(self) -> None:
        """Give memory back if much is resident: to be called every ``SETTLE_EVERY`` rows."""
        if _mapped_bytes(self._statm) > self._resident_max_bytes:
            self.unmap_pages()

    def unmap_pages(self) -> None:
        """Give back all memory that the tables take."""
        for rows in self._tables:
            rows.data.madvise(mmap.MADV_DONTNEED)

    def _open(self) -> int:
        if self._folder is None:
            return os.memfd_create("cafs-scratch")
        with tempfile.TemporaryFile(dir=self._folder) as file:
            return os.dup(file.fileno())


class Rows:
    """Rows of a fixed size. ``data`` and the columns are taken anew after ``grow``."""

    def __init__(self, descriptor: int, row_bytes: int, capacity: int) -> None:
        self._row_bytes = row_bytes
        self._descriptor = descriptor
        self.capacity = 0
        self._extend(max(capacity, _FIRST_BYTES // row_bytes))

    def __del__(self) -> None:
        os.close(self._descriptor)

    def grow(self, needed: int = 0) -> None:
        """Make room for more rows, ``needed`` at least; those that are there stay.

        Raises:
            OSError: the disk is full. Reserved now, as a map of what is not there ends the process.
        """
        self._extend(max(needed, self.capacity + self.capacity // 2))

    def column(self, code: str, at: int = 0) -> memoryview:
        """The numbers (``struct`` code ``code``) at byte ``at`` of every row; zero in a row not written."""
        view: memoryview = memoryview(self.data).cast(code)  # type: ignore[call-overload]  # it wants literals
        return view[at // view.itemsize :: self._row_bytes // view.itemsize]

    def _extend(self, capacity: int) -> None:
        old = self.capacity * self._row_bytes
        new = capacity * self._row_bytes
        os.posix_fallocate(self._descriptor, old, new - old)
        self.data = mmap.mmap(self._descriptor, new)
        self.capacity = capacity


class Pool:
    """Byte strings one after another."""

    def __init__(self, scratch: Scratch) -> None:
        self._rows = scratch.rows(1)
        self.used_bytes = 0

    @property
    def data(self) -> mmap.mmap:
        """Its bytes; taken anew for what is appended later."""
        return self._rows.data

    def append(self, content: bytes) -> int:
        """Keep ``content``; its offset."""
        offset, end = self.used_bytes, self.used_bytes + len(content)
        if end > self._rows.capacity:
            self._rows.grow(end)
        self._rows.data[offset:end] = content
        self.used_bytes = end
        return offset

    def read(self, offset: int, size: int) -> bytes:
        """What was kept there."""
        return self._rows.data[offset : offset + size]


def _mapped_bytes(statm: int) -> int:
    """Resident memory of the process that belongs to files and to shared memory (proc(5), statm)."""
    return int(os.pread(statm, 128, 0).split()[2]) * mmap.PAGESIZE
