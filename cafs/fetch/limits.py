"""How much a ``ChunkService`` may do at once and how long a read may take."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from cafs.core.settings import Settings

_KIB, _MIB = 1 << 10, 1 << 20


class Priority(IntEnum):
    """Who is served first; a chunk wanted twice counts with the lower number."""

    DEMAND = 0
    """A reader waits for it."""
    READAHEAD = 1
    PROFILE = 2
    FILL = 3


PROFILE_SLOTS = 3
"""Requests of a profile at once: these keep the link to a source next door busy, and more would share it with
a reader's."""


SOURCES_AT_ONCE = 4
"""So many times ``concurrency`` is the most for all sources together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """Bounds of one service. The defaults are for one mount beside its users' programs."""

    memory_cache_bytes: int = 16 * _MIB
    ahead_cache_bytes: int = 32 * _MIB
    """Plain bytes that were fetched ahead and are not read yet: what a start of Python with numpy reads."""
    concurrency: int = 8
    """Range requests to one source under way at once."""
    read_deadline_s: float = 60.0
    answer_timeout_s: float = 20.0
    """One request that took longer than this, and a second for each 64 KiB wanted, is given up and
    tried again or elsewhere: the reader's deadline must leave room for that."""
    retries: int = 5
    """Rounds over all sources after which prefetching gives a chunk up. A reader's own wait is ended by
    its deadline only."""
    demand_range_bytes: int = _MIB
    """Longer runs are split, so that their parts come in parallel and verify in parallel."""
    prefetch_range_bytes: int = 512 * _KIB
    readahead_range_bytes: int = 512 * _KIB
    """Short, since a reader may come to wait for a part of it."""
    fill_range_bytes: int = 512 * _KIB
    gap_bytes: int = 16 * _KIB
    """About what a link of 200 Mbit/s brings in the time that one more request costs us."""
    rider_bytes: int = 128 * _KIB
    """Compressed bytes that may travel along with a reader's request: he waits 5 ms longer for them on a
    link of 200 Mbit/s."""
    readahead_bytes: int = 8 * _MIB
    write_behind_bytes: int = 10 * _MIB
    """Plain bytes of verified chunks that wait to be stored."""
    store_bytes: int = 20 << 30
    """Quota of the chunk store: what does not fit is not fetched in advance."""
    fill_after_fraction: float = 0.4
    """``auto`` fetches the rest once this part of the image's bytes was read."""

    @classmethod
    def from_settings(cls, settings: Settings) -> FetchLimits:
        """The limits that the user's configuration asks for."""
        return cls(
            memory_cache_bytes=settings.memory_cache_bytes,
            concurrency=settings.fetch_concurrency,
            read_deadline_s=settings.read_deadline_s,
            answer_timeout_s=min(settings.stall_timeout_s, settings.read_deadline_s / 2),
            retries=settings.retries,
            store_bytes=settings.store_quota_bytes,
        )

    def range_bytes(self, priority: Priority) -> int:
        """How long a range request may be for this priority."""
        if priority is Priority.DEMAND:
            return self.demand_range_bytes
        if priority is Priority.READAHEAD:
            return self.readahead_range_bytes
        return self.fill_range_bytes if priority is Priority.FILL else self.prefetch_range_bytes

    def most_rider_bytes(self, distance: float) -> int:
        """Of riders from a source so far away; they fit into a request beside what the reader waits for."""
        return min(int(self.rider_bytes * distance), self.demand_range_bytes // 2)

    def may_start(self, priority: Priority, active: list[int], asked: int, distance: float = 1.0) -> bool:
        """May one more request of this priority start?

        Prefetching leaves a quarter of the slots free, so that a reader's request starts at once; and
        while readers wait, the fill keeps to a single request, so that the link is mostly theirs. A source
        that does not answer keeps its own slots, and not those of readers who ask another one.

        Args:
            priority: Of the request.
            active: Requests under way of each priority.
            asked: Those of them that ask the same source.
            distance: Of the source; see ``cafs.core.distance``.
        """
        total = sum(active)
        if asked >= self.concurrency or total >= self.concurrency * SOURCES_AT_ONCE:
            return False
        if priority is Priority.DEMAND:
            return True
        if total - active[Priority.DEMAND] >= self.concurrency - self.concurrency // 4:
            return False
        if priority is Priority.PROFILE and active[priority] >= PROFILE_SLOTS * distance:
            return False
        fill_slots = 1 if active[Priority.DEMAND] else max(self.concurrency // 2, 1)
        return priority is not Priority.FILL or active[Priority.FILL] < fill_slots
