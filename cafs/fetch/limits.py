"""How much a ``ChunkService`` may do at once and how long a read may take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

_KIB, _MIB = 1 << 10, 1 << 20


class Priority(IntEnum):
    """Who is served first; a chunk wanted twice counts with the lower number."""

    DEMAND = 0
    """A reader waits for it."""
    READAHEAD = 1
    PROFILE = 2
    FILL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of one service. The defaults are for one mount beside its users' programs."""

    memory_cache_bytes: int = 32 * _MIB
    concurrency: int = 8
    """Range requests under way at once."""
    read_deadline_s: float = 60.0
    retries: int = 5
    """Failed rounds over all sources after which prefetching gives a chunk up; a reader's deadline
    ends its own waiting."""
