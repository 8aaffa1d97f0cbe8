"""Room on the disk that is kept for Remove: a disk that is full could not be freed otherwise.

A file that takes blocks and holds nothing. It is given back slice by slice when the database cannot write,
and taken again when there is room. Owned by ``program``; used in the ledger's thread.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_SLICE_BYTES = 256 << 10
"""More than the database writes for some removals."""
_SLICES = 16


class Reserve:
    """The file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def hold(self) -> None:
        """Take the room, as far as the disk has it."""
        with contextlib.suppress(OSError), self._file.open("ab") as file:
            for _ in range(_slices(file.tell()), _SLICES):
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), _SLICE_BYTES)

    def release(self) -> bool:
        """Give a slice back to the disk; whether there was one."""
        try:
            slices = _slices(self._file.stat().st_size)
            os.truncate(self._file, max(slices - 1, 0) * _SLICE_BYTES)
        except OSError:
            return False
        return slices > 0


def _slices(size_bytes: int) -> int:
    return -(-size_bytes // _SLICE_BYTES)
