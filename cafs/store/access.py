"""What readers did since the last write: which chunks they read, and how many they found.

Gathered in memory, so that a read costs no write; whoever writes next takes it along. Lost at a crash,
which costs nothing but a little wisdom of the eviction.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_NOTES = 1 << 14
"""Chunks remembered between two flushes, 2 MB. A read never flushes itself: a commit waits for the disk."""


@dataclass(slots=True)
class Accesses:
    """One batch of notes."""

    reads: Counter[bytes] = field(default_factory=Counter)
    hits: int = 0
    misses: int = 0

    def __bool__(self) -> bool:
        return bool(self.hits or self.misses)


class AccessLog:
    """Thread-safe; one per open store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._notes = Accesses()

    def note(self, read: Iterable[bytes], hits: int, misses: int) -> None:
        """Add one batch of reads. When there are too many, which chunks they were is not kept."""
        with self._lock:
            notes = self._notes
            if len(notes.reads) < MOST_NOTES:
                notes.reads.update(read)
            notes.hits += hits
            notes.misses += misses

    def is_empty(self) -> bool:
        """Nothing was noted since the last ``take``."""
        with self._lock:
            return not self._notes

    def take(self) -> Accesses:
        """Everything so far; the caller writes it or gives it back."""
        with self._lock:
            taken, self._notes = self._notes, Accesses()
            return taken

    def give_back(self, notes: Accesses) -> None:
        """The transaction that should have written them failed."""
        with self._lock:
            if len(self._notes.reads) < MOST_NOTES:  # a disk that stays full must not fill the memory
                self._notes.reads.update(notes.reads)
            self._notes.hits += notes.hits
            self._notes.misses += notes.misses
