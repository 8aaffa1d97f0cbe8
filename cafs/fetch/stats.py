"""What a service counts, and the frozen picture of it that tests, benchmarks and ``stats.json`` get."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cafs.fetch.limits import Priority


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """A snapshot of the counters of one ``ChunkService``."""

    requests: int
    """Range requests that were answered."""
    fetched_bytes: int
    """Bytes of those answers."""
    fetched_by_source: dict[str, int]
    fetched_by_priority: dict[str, int]
    failed_answers: int
    failed_reads: int
    memory_hits: int
    """Chunks that ``read`` found in memory; ``try_read`` is not counted, for speed."""
    store_hits: int
    fetched_chunks: int
    under_way: int
    """Chunks being looked up or fetched at this moment."""
    not_stored: int
    """Fetched chunks that the store did not take in time, or at all."""
    waited_reads: int
    """Reads that had to wait for the store or a source."""
    waited_s: float
    """Sum of their waiting times."""
    longest_wait_s: float
    touched_frame_bytes: int
    """Compressed bytes of the chunks that readers read at all: what fetching is measured against."""
    touched_bytes: int
    """Plain bytes of those chunks."""
    total_bytes: int
    """Plain bytes of all chunks of all layers."""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(slots=True)
class Counters:
    """The running counts; owned by the service, touched in its trio thread only."""

    requests: int = 0
    failed_answers: int = 0
    failed_reads: int = 0
    memory_hits: int = 0
    store_hits: int = 0
    fetched_chunks: int = 0
    waited_reads: int = 0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    by_source: dict[str, int] = field(default_factory=dict)
    by_priority: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))

    def note_answer(self, source: str, priority: Priority, length: int) -> None:
        """A request was answered."""
        self.requests += 1
        self.by_source[source] = self.by_source.get(source, 0) + length
        self.by_priority[priority] += length

    def note_wait(self, waited_s: float) -> None:
        """A read had its bytes after waiting."""
        self.waited_reads += 1
        self.waited_s += waited_s
        self.longest_wait_s = max(self.longest_wait_s, waited_s)

    def snapshot(
        self,
        *,
        under_way: int,
        not_stored: int,
        touched_frame_bytes: int,
        touched_bytes: int,
        total_bytes: int,
    ) -> ServiceStats:
        """Freeze."""
        return ServiceStats(
            requests=self.requests,
            fetched_bytes=sum(self.by_source.values()),
            fetched_by_source=dict(self.by_source),
            fetched_by_priority={p.name.lower(): n for p, n in self.by_priority.items()},
            failed_answers=self.failed_answers,
            failed_reads=self.failed_reads,
            memory_hits=self.memory_hits,
            store_hits=self.store_hits,
            fetched_chunks=self.fetched_chunks,
            under_way=under_way,
            not_stored=not_stored,
            waited_reads=self.waited_reads,
            waited_s=self.waited_s,
            longest_wait_s=self.longest_wait_s,
            touched_frame_bytes=touched_frame_bytes,
            touched_bytes=touched_bytes,
            total_bytes=total_bytes,
        )
