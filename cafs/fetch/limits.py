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
    answer_timeout_s: float = 20.0
    """One request that took longer than this, and a second for each 64 KiB wanted, is given up and
    tried again or elsewhere: the reader's deadline must leave room for that."""
    retries: int = 5
    """Rounds over all sources after which prefetching gives a chunk up. A reader's own wait is ended by
    its deadline only."""
    demand_range_bytes: int = _MIB
    """Longer runs are split, so that their parts come in parallel and verify in parallel."""
    prefetch_range_bytes: int = 2 * _MIB
    fill_range_bytes: int = 4 * _MIB
    gap_bytes: int = 16 * _KIB
    """About what a link of 200 Mbit/s brings in the time that one more request costs us."""
    readahead_bytes: int = 8 * _MIB
    write_behind_bytes: int = 32 * _MIB
    """Plain bytes of verified chunks that wait to be stored."""
    fill_after_fraction: float = 0.4
    """``auto`` fetches the rest once this part of the image's compressed bytes was read."""

    def range_bytes(self, priority: Priority) -> int:
        """How long a range request may be for this priority."""
        if priority is Priority.DEMAND:
            return self.demand_range_bytes
        return self.fill_range_bytes if priority is Priority.FILL else self.prefetch_range_bytes

    def may_start(self, priority: Priority, active: list[int]) -> bool:
        """May one more request of this priority start, with so many active ones of each priority?

        The lower ones leave slots free, so that a reader's request always starts at once; and while
        readers wait, the fill keeps to a single request, so that the link is mostly theirs.
        """
        total, half = sum(active), max(self.concurrency // 2, 1)
        if priority is Priority.DEMAND:
            return total < self.concurrency
        if priority is Priority.FILL:
            fill_slots = 1 if active[Priority.DEMAND] else half
            return active[Priority.FILL] < fill_slots and total < self.concurrency
        return total - active[Priority.FILL] < half + half // 2 and total < self.concurrency
