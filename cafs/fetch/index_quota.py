"""Keeps the index cache from growing for ever: the indexes opened longest ago go first.

Used by ``index_cache`` after each new index, and by ``cafs cache``. A file's modification time is the time
of its last opening. An index that a mount uses has a second name there (a hard link), so taking its
name here away would free nothing, and it is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

QUOTA_BYTES = 2 << 30
"""Some 160 bytes a file: the indexes of hundreds of large images."""
_NAME_LENGTH = 64
"""Files under work have longer names."""


@dataclass(frozen=True, slots=True)
class KeptIndex:
    """A file of the index cache."""

    path: Path
    size: int
    """What removing it would free, in bytes."""
    opened_ns: int
    in_use: bool


def choose_oldest(kept: Iterable[KeptIndex], quota_bytes: int) -> list[KeptIndex]:
    """Which to remove so that the rest fits the quota. Pure; the newest one always stays."""
    newest_first = sorted((k for k in kept if not k.in_use), key=lambda k: k.opened_ns, reverse=True)
    total, surplus = 0, []
    for position, index in enumerate(newest_first):
        total += index.size
        if position and total > quota_bytes:
            total -= index.size
            surplus.append(index)
    return surplus


def list_indexes(folder: Path) -> list[KeptIndex]:
    """What the cache holds. Files that go away meanwhile are passed over."""
    kept = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                state = entry.stat()
                if len(entry.name) == _NAME_LENGTH:
                    used = state.st_nlink > 1
                    kept.append(KeptIndex(Path(entry.path), state.st_size, state.st_mtime_ns, used))
    return kept


def trim_indexes(folder: Path, quota_bytes: int = QUOTA_BYTES) -> int:
    """Remove what is over the quota.

    Returns:
        The bytes freed.
    """
    surplus = choose_oldest(list_indexes(folder), quota_bytes)
    for index in surplus:
        index.path.unlink(missing_ok=True)
    return sum(index.size for index in surplus)
