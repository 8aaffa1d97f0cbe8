"""Unanswered requests, kept in memory that survives the server process.

Needed only where the kernel cannot send unanswered requests again (before Linux 6.9): the next server
then answers them with EIO, so that no reader waits for ever. The supervisor makes the memory (a memfd)
before it forks; one server at a time writes into it.

Requests are read straight into the shared buffer, so there is no instant at which a request has left
the kernel and is known only to a process that may be killed.

Layout: [ request buffer, BUFFER_BYTES ][ SLOTS x u64 unique of a waiting read, 0 when free ]
"""

from __future__ import annotations

import mmap
import os

from cafs.fuse import abi

BUFFER_BYTES = 64 << 10
"""At least FUSE_MIN_READ_BUFFER (8 KiB); a larger one only takes more forgets at once."""
SLOTS = 10_240
"""More than a session lets wait."""
_TOTAL_BYTES = BUFFER_BYTES + 8 * SLOTS


class Outstanding:
    """The unanswered requests of one mount."""

    def __init__(self, descriptor: int | None = None) -> None:
        """
        Args:
            descriptor: Of the memory of an earlier supervisor; None makes new memory.
        """
        if descriptor is None:
            descriptor = os.memfd_create("cafs-outstanding", os.MFD_CLOEXEC)
        if os.fstat(descriptor).st_size < _TOTAL_BYTES:  # new, or of a supervisor that had fewer slots
            os.ftruncate(descriptor, _TOTAL_BYTES)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _TOTAL_BYTES)
        whole = memoryview(self._memory)
        self.buffer = whole[:BUFFER_BYTES]
        """Where the session reads requests into."""
        self._slots = whole[BUFFER_BYTES:].cast("Q")
        self._free = list(range(SLOTS))
        self._slot_of: dict[int, int] = {}

    def add(self, unique: int) -> None:
        """A read has to wait."""
        slot = self._free.pop()
        self._slot_of[unique] = slot
        self._slots[slot] = unique

    def remove(self, unique: int) -> None:
        """It was answered."""
        slot = self._slot_of.pop(unique)
        self._slots[slot] = 0
        self._free.append(slot)

    def take_all(self) -> list[int]:
        """Whatever the server before this process left, and forget it.

        The request in the buffer may have been answered: answering again is harmless, the kernel says
        ENOENT.
        """
        left = [unique for unique in self._slots if unique]
        unique = abi.IN_HEADER.unpack_from(self.buffer)[2]
        if unique:
            left.append(unique)
        self.clear()
        return left

    def clear(self) -> None:
        """Forget everything: the kernel will send it again."""
        self._slots[:] = memoryview(bytes(8 * SLOTS)).cast("Q")
        self.buffer[: abi.IN_HEADER.size] = bytes(abi.IN_HEADER.size)
        self._free = list(range(SLOTS))
        self._slot_of = {}
