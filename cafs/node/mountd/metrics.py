"""``GET /metrics``: the mount server's figures as Prometheus text. Pure; docs/operations.md has the table."""

from __future__ import annotations

from collections.abc import Mapping

from cafs.core.exposition import Labels, MetricsText, labels
from cafs.fetch.stats import Counters, ServiceStats
from cafs.node.mountd.figures import Figures


def render_metrics(figures: Figures, counters: Counters) -> bytes:
    """The whole text. ``counters`` has the latencies of what ``figures`` counts."""
    text = MetricsText("cafs_mountd")
    _add_layers(text, figures)
    _add_reads(text, figures.service, counters)
    _add_fetches(text, figures.service, counters)
    text.gauge("resident_bytes", "Resident memory of the server.", figures.resident_bytes)
    text.gauge("start_time_seconds", "When the server began, since the epoch.", figures.started_at)
    return text.render()


def _add_layers(text: MetricsText, figures: Figures) -> None:
    shown = [layer for layer in figures.layers if not layer.record.hidden]
    text.gauge("layers", "Layers that are shown.", len(shown))
    held = sum(layer.held for layer in figures.layers)
    text.gauge("layers_held", "Layers whose file is mounted or open.", held)
    text.counter("adds_total", "Layers that were asked for and shown.", figures.added)
    text.histogram("add_seconds", "How long that took.", figures.add_seconds)
    refused = _labelled("reason", figures.refused)
    text.counter("add_failures_total", "Layers that were asked for and not shown.", refused)


def _add_reads(text: MetricsText, service: ServiceStats, counters: Counters) -> None:
    text.counter("reads_total", "Reads of layer files.", service.reads)
    text.counter("read_bytes_total", "Bytes of those.", service.read_bytes)
    text.counter("read_failures_total", "Reads that failed.", service.failed_reads)
    text.histogram("read_wait_seconds", "Reads that had to wait for a chunk.", counters.read_seconds)
    other = service.chunk_reads - service.memory_hits - service.store_hits
    places = {"memory": service.memory_hits, "store": service.store_hits, "registry": other}
    text.counter("chunk_reads_total", "Chunks that reads were made of.", _labelled("from", places))
    text.counter("store_bytes_total", "Plain bytes read from the chunk store.", service.store_bytes)


def _add_fetches(text: MetricsText, service: ServiceStats, counters: Counters) -> None:
    text.counter("fetches_total", "Range requests that were answered.", service.requests)
    text.counter("fetch_failures_total", "Answers that were errors, late or wrong.", service.failed_answers)
    by_source = _labelled("source", service.fetched_by_source)
    text.counter("fetched_bytes_total", "Compressed bytes that came from registries.", by_source)
    by_purpose = _labelled("purpose", service.fetched_by_priority)
    text.counter("fetched_for_bytes_total", "The same, by what they were fetched for.", by_purpose)
    latencies = {labels(purpose=p.name.lower()): found for p, found in counters.fetch_seconds.items()}
    text.histogram("fetch_seconds", "How long range requests took.", latencies)
    text.gauge("chunks_under_way", "Chunks that are being looked up or fetched.", service.under_way)
    text.counter("chunks_not_stored_total", "Fetched chunks that the store did not take.", service.not_stored)


def _labelled(label: str, values: Mapping[str, float]) -> dict[Labels, float]:
    return {((label, key),): value for key, value in values.items()}
