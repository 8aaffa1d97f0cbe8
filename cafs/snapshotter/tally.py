"""What the snapshotter counts, and its Prometheus text. Pure; docs/operations.md has the table.

Touched in the loop's thread only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from cafs.control_socket.protocol import AwayError, RefusedError
from cafs.core.exposition import Histogram, MetricsText, labels
from cafs.errors import UsageError


@dataclass(slots=True)
class Tally:
    """Running counts."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By method and gRPC code."""
    seconds: defaultdict[str, Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    """Of calls, by method."""
    lazy: int = 0
    """Layers that were mounted instead of downloaded."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    """Layers that went the ordinary way although a lazy one was wanted, by reason."""

    def note_call(self, method: str, code: str, took_s: float) -> None:
        """A call was answered."""
        self.calls[method, code] += 1
        self.seconds[method].note(took_s)

    def note_fallback(self, error: Exception) -> None:
        """A layer goes the ordinary way because of this."""
        self.fallbacks[fallback_reason(error)] += 1

    def render(self, layers_mounted: int) -> bytes:
        """As Prometheus text."""
        text = MetricsText("cafs_snapshotter")
        by_code = {labels(method=method, code=code): n for (method, code), n in self.calls.items()}
        text.counter("calls_total", "Calls of the Snapshots service that were answered.", by_code)
        latencies = {labels(method=method): found for method, found in self.seconds.items()}
        text.histogram("call_seconds", "How long calls took.", latencies)
        text.counter("lazy_layers_total", "Layers that were mounted instead of downloaded.", self.lazy)
        reasons = {labels(reason=reason): count for reason, count in self.fallbacks.items()}
        text.counter("fallbacks_total", "Layers that went the ordinary way, and why.", reasons)
        text.gauge("layers_mounted", "Lazy layers that are mounted.", layers_mounted)
        return text.render()


def fallback_reason(error: Exception) -> str:
    """One word: the mount server's reason, or what else there is."""
    if isinstance(error, RefusedError):
        return str(error.reason)
    if isinstance(error, AwayError):
        return "mountd_away"
    if isinstance(error, OSError):
        return "storage"
    return "bad_labels" if isinstance(error, UsageError) else "mount_failed"
