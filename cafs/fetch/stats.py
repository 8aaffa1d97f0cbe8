"""What a service counts, and the frozen picture of it that tests, benchmarks and ``stats.json`` get."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from cafs.core.exposition import Histogram
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
    reads: int
    """Reads that were answered, or will be."""
    read_bytes: int
    """Bytes of those."""
    chunk_reads: int
    """Chunks that those were made of; one that serves two reads counts twice."""
    memory_hits: int
    """Of those, chunks that were in memory."""
    store_hits: int
    """Of those, chunks that came from the store."""
    store_bytes: int
    """Plain bytes of the latter."""
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


@dataclass(frozen=True, slots=True)
class LayerStats:
    """A snapshot of what was counted for one layer."""

    touched_bytes: int
    """Plain bytes of the chunks that readers read at all."""
    touched_frame_bytes: int
    """Compressed bytes of those."""
    fetched_frame_bytes: int
    """Compressed bytes of chunks that came from a source on behalf of this layer."""
    under_way: int
    """Its chunks that are being looked up or fetched at this moment."""


@dataclass(slots=True)
class Counters:
    """The running counts; owned by the service, touched in its trio thread only."""

    requests: int = 0
    failed_answers: int = 0
    failed_reads: int = 0
    reads: int = 0
    read_bytes: int = 0
    chunk_reads: int = 0
    awaited_chunks: int = 0
    store_hits: int = 0
    store_bytes: int = 0
    fetched_chunks: int = 0
    waited_reads: int = 0
    waited_s: float = 0.0
    longest_wait_s: float = 0.0
    by_source: dict[str, int] = field(default_factory=dict)
    by_layer: dict[str, int] = field(default_factory=dict)
    by_priority: dict[Priority, int] = field(default_factory=lambda: dict.fromkeys(Priority, 0))
    read_seconds: Histogram = field(default_factory=Histogram)
    """Of reads that waited."""
    fetch_seconds: dict[Priority, Histogram] = field(
        default_factory=lambda: {priority: Histogram() for priority in Priority}
    )

    def note_read(self, size: int, chunks: int) -> None:
        """A read is answered, or will be. In every read's way: no more than this."""
        self.reads += 1
        self.read_bytes += size
        self.chunk_reads += chunks

    def note_answer(self, source: str, priority: Priority, length: int, took_s: float) -> None:
        """A request was answered."""
        self.requests += 1
        self.fetch_seconds[priority].note(took_s)
        self.by_source[source] = self.by_source.get(source, 0) + length
        self.by_priority[priority] += length

    def note_chunk(self, layer: str, frame_bytes: int) -> None:
        """A chunk arrived and was right."""
        self.fetched_chunks += 1
        self.by_layer[layer] = self.by_layer.get(layer, 0) + frame_bytes

    def note_wait(self, waited_s: float) -> None:
        """A read had its bytes after waiting."""
        self.waited_reads += 1
        self.waited_s += waited_s
        self.read_seconds.note(waited_s)
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
            reads=self.reads,
            read_bytes=self.read_bytes,
            chunk_reads=self.chunk_reads,
            memory_hits=self.chunk_reads - self.awaited_chunks,
            store_hits=self.store_hits,
            store_bytes=self.store_bytes,
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
