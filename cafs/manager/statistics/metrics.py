"""What can be asked for, by the names that REST knows. Pure. docs/manager.md says what each one is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from cafs.core.statistics.amounts import (
    AMOUNTS,
    FIRST_BYTE_UP_TO,
    LEVELS,
    SOURCES,
    first_byte_quantile_ms,
    hit_ratio,
)

Value = int | float | None


class Metric(StrEnum):
    """Amounts, levels, and what is reckoned from amounts."""

    ORIGIN_BYTES = "origin_bytes"
    SEED_BYTES = "seed_bytes"
    PEER_BYTES = "peer_bytes"
    LOCAL_BYTES = "local_bytes"
    UPLOAD_BYTES = "upload_bytes"
    FORWARDED_BYTES = "forwarded_bytes"
    HIT_RATIO = "hit_ratio"
    DOWNLOADS_SUCCEEDED = "downloads_succeeded"
    DOWNLOADS_FAILED = "downloads_failed"
    PIECES_SUCCEEDED = "pieces_succeeded"
    PIECES_FAILED = "pieces_failed"
    PIECES_WRONG = "pieces_wrong"
    CHUNKS_BROUGHT = "chunks_brought"
    CHUNKS_NOT_BROUGHT = "chunks_not_brought"
    FIRST_BYTES = "first_bytes"
    FIRST_BYTE_MEAN_MS = "first_byte_mean_ms"
    FIRST_BYTE_P50_MS = "first_byte_p50_ms"
    FIRST_BYTE_P90_MS = "first_byte_p90_ms"
    FIRST_BYTE_P99_MS = "first_byte_p99_ms"
    REQUESTS = "requests"
    REQUESTS_FAILED = "requests_failed"
    REGISTRATIONS = "registrations"
    DECISIONS = "decisions"
    STORE_BYTES = "store_bytes"
    STORE_QUOTA_BYTES = "store_quota_bytes"
    TASK_BYTES = "task_bytes"
    TASK_QUOTA_BYTES = "task_quota_bytes"
    TASKS = "tasks"


_QUANTILES = {
    Metric.FIRST_BYTE_P50_MS: 0.5,
    Metric.FIRST_BYTE_P90_MS: 0.9,
    Metric.FIRST_BYTE_P99_MS: 0.99,
}


def columns_of(metrics: Iterable[Metric]) -> tuple[list[str], list[str]]:
    """The amounts and the levels that are needed for them."""
    wanted: set[str] = set()
    for metric in metrics:
        if metric is Metric.HIT_RATIO:
            wanted.update(SOURCES)
        elif metric is Metric.FIRST_BYTE_MEAN_MS:
            wanted.update(("first_bytes", "first_byte_ms"))
        elif metric in _QUANTILES:
            wanted.update(("first_bytes", *FIRST_BYTE_UP_TO))
        else:
            wanted.add(metric.value)
    return [name for name in AMOUNTS if name in wanted], [name for name in LEVELS if name in wanted]


def value_of(metric: Metric, amounts: Mapping[str, int], levels: Mapping[str, int | None]) -> Value:
    """Of one step. None: there is nothing that it could be told from."""
    if metric is Metric.HIT_RATIO:
        return hit_ratio(amounts)
    if metric is Metric.FIRST_BYTE_MEAN_MS:
        count = amounts.get("first_bytes", 0)
        return amounts.get("first_byte_ms", 0) / count if count else None
    if (share := _QUANTILES.get(metric)) is not None:
        return first_byte_quantile_ms(amounts, share)
    return levels.get(metric.value) if metric.value in LEVELS else amounts.get(metric.value, 0)
