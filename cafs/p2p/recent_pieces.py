"""Pieces that were just written, in memory, verified.

A reader who waits for a piece, a host that heard of it, and the digest of the whole want it a moment after it
came: from here they have it without the disk and without hashing it again.
"""

from __future__ import annotations

from cafs.core.swarm.ids import TaskId


class RecentPieces:
    """Bounded in bytes; the oldest go first. What is given must not change any more."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._pieces: dict[tuple[TaskId, int], bytes | bytearray] = {}

    def put(self, task: TaskId, number: int, data: bytes | bytearray) -> None:
        """Keep a verified piece for a while."""
        self.drop(task, number)
        self._pieces[task, number] = data
        self._bytes += len(data)
        while self._bytes > self._most_bytes:
            self.drop(*next(iter(self._pieces)))

    def get(self, task: TaskId, number: int) -> bytes | bytearray | None:
        """The piece, if it is here."""
        return self._pieces.get((task, number))

    def drop(self, task: TaskId, number: int) -> None:
        """It is not what the piece should be, or not wanted."""
        self._bytes -= len(self._pieces.pop((task, number), b""))

    def forget(self, task: TaskId) -> None:
        """Nobody uses the task now."""
        for key in [key for key in self._pieces if key[0] == task]:
            self.drop(*key)
