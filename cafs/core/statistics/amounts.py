"""The names of all that is counted, for peers, seeds, proxies, schedulers and the manager. Pure.

``AMOUNTS`` grow; the fields of ``Counts`` in proto/manager.proto have the same names. ``LEVELS`` go up and
down. docs/manager.md says what each one is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

SOURCES = ("origin_bytes", "seed_bytes", "peer_bytes", "local_bytes")
"""Where the bytes came from that a host's readers, or those whom it serves, wanted."""
FIRST_BYTE_BOUNDS_MS = (10, 30, 100, 300, 1000, 3000, 10000)
FIRST_BYTE_UP_TO = tuple(f"first_byte_up_to_{bound}" for bound in FIRST_BYTE_BOUNDS_MS)
"""Waits up to a bound and above the one before; those above all bounds are only in ``first_bytes``."""
AMOUNTS = (
    *SOURCES,
    "upload_bytes",
    "forwarded_bytes",
    "downloads_succeeded",
    "downloads_failed",
    "pieces_succeeded",
    "pieces_failed",
    "pieces_wrong",
    "chunks_brought",
    "chunks_not_brought",
    "first_bytes",
    "first_byte_ms",
    *FIRST_BYTE_UP_TO,
    "requests",
    "requests_failed",
    "registrations",
    "decisions",
)
LEVELS = ("store_bytes", "store_quota_bytes", "task_bytes", "task_quota_bytes", "tasks")
MOST_AMOUNT = 1 << 44
"""In one report: 16 TiB, so that no sum of what hosts say runs over."""
MOST_LEVEL = 1 << 52


def since(now: Mapping[str, int], before: Mapping[str, int]) -> Counter[str]:
    """What was added. A count that became less began anew."""
    found: Counter[str] = Counter()
    for name, amount in now.items():
        known = before.get(name, 0)
        if more := amount - known if amount >= known else amount:
            found[name] = more
    return found


def first_byte(wait_ms: int) -> dict[str, int]:
    """One wait for a first byte, as amounts."""
    found = {"first_bytes": 1, "first_byte_ms": wait_ms}
    place = bisect_left(FIRST_BYTE_BOUNDS_MS, wait_ms)
    if place < len(FIRST_BYTE_UP_TO):
        found[FIRST_BYTE_UP_TO[place]] = 1
    return found


def hit_ratio(amounts: Mapping[str, int]) -> float | None:
    """The share of bytes that did not come from an origin; None: there were none."""
    total = sum(amounts.get(name, 0) for name in SOURCES)
    return 1 - amounts.get("origin_bytes", 0) / total if total else None


def first_byte_quantile_ms(amounts: Mapping[str, int], share: float) -> float | None:
    """A wait that so many were not longer than, straight between two bounds; None: there were none.

    Of those that lie above all bounds no more is known: they are said to be the highest bound.
    """
    wanted, seen, below = share * amounts.get("first_bytes", 0), 0, 0
    if not wanted:
        return None
    for bound, name in zip(FIRST_BYTE_BOUNDS_MS, FIRST_BYTE_UP_TO, strict=True):
        count = amounts.get(name, 0)
        if seen + count >= wanted:
            return below + (bound - below) * (wanted - seen) / count
        seen, below = seen + count, bound
    return float(FIRST_BYTE_BOUNDS_MS[-1])
