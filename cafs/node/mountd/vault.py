"""Memory that survives the server process, and touches no disk: credentials, and what the kernel holds.

A memfd that the supervisor makes before it forks and, under systemd, leaves in the descriptor store. Layout:
a page whose first word says which half is valid and how long its content is; two halves; a word for each node
(``cafs.fuse.holdings``), of which the kernel makes pages only where they are used. Of the halves the other
one is written first and the word last, so that a kill at any moment leaves the old content or the new.
"""

from __future__ import annotations

import mmap
import os
import struct

HALF_BYTES = 1 << 20
HOLDINGS_BYTES = 8 << 20
"""A million layers in the life of one FUSE session."""
_PAGE_BYTES = 4096
_WORD = struct.Struct("=Q")
"""Length * 2 + number of the half."""
_HOLDINGS_AT = _PAGE_BYTES + 2 * HALF_BYTES
_TOTAL_BYTES = _HOLDINGS_AT + HOLDINGS_BYTES


class Vault:
    """A little content, and the counts."""

    def __init__(self, descriptor: int | None = None) -> None:
        """
        Args:
            descriptor: Of an earlier one; None makes a new, empty one.
        """
        if descriptor is None:
            descriptor = os.memfd_create("cafs-vault", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, _TOTAL_BYTES)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _TOTAL_BYTES)
        self.holdings = memoryview(self._memory)[_HOLDINGS_AT:]
        """For ``Holdings``."""

    def read(self) -> bytes:
        """What was kept last; empty at first."""
        half, length = self._state()
        begin = _PAGE_BYTES + half * HALF_BYTES
        return self._memory[begin : begin + length] if length <= HALF_BYTES else b""

    def keep(self, content: bytes) -> None:
        """Keep this instead.

        Raises:
            ValueError: it does not fit.
        """
        if len(content) > HALF_BYTES:
            raise ValueError(f"{len(content)} bytes do not fit")
        half = 1 - self._state()[0]
        begin = _PAGE_BYTES + half * HALF_BYTES
        self._memory[begin : begin + len(content)] = content
        _WORD.pack_into(self._memory, 0, len(content) * 2 + half)

    def forget_holdings(self) -> None:
        """A new FUSE session begins: its nodes were never looked up."""
        os.ftruncate(self.descriptor, _HOLDINGS_AT)
        os.ftruncate(self.descriptor, _TOTAL_BYTES)

    def _state(self) -> tuple[int, int]:
        (word,) = _WORD.unpack_from(self._memory, 0)
        return word & 1, word >> 1
