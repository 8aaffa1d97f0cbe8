"""What a proxy counts, and its Prometheus text. Pure; docs/proxy.md has the table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cafs.core.exposition import Labels, MetricsText, labels


@dataclass
class Figures:
    """Since the proxy began."""

    requests: Counter[str] = field(default_factory=Counter)
    """By way: ``p2p``, ``forward``, ``tunnel``, ``intercepted``."""
    failures: Counter[str] = field(default_factory=Counter)
    """Answers that were an error of ours, by its word (``X-Cafs-Error``); ``broken``: after they began."""
    distributed_bytes: int = 0
    forwarded_bytes: int = 0
    connections: int = 0
    """Open now."""

    def amounts(self) -> dict[str, int]:
        """By the names of ``core.statistics.amounts``. What came by P2P is counted by the node's peer."""
        return {
            "requests": self.requests.total(),
            "requests_failed": self.failures.total(),
            "forwarded_bytes": self.forwarded_bytes,
        }

    def render(self) -> bytes:
        """As Prometheus text."""
        text = MetricsText("cafs_proxy")
        text.gauge("connections", "Connections of clients that are open.", self.connections)
        text.counter("requests_total", "Requests, by the way that they went.", _by("way", self.requests))
        text.counter(
            "failures_total",
            "Answers that were an error of the proxy's, by reason.",
            _by("reason", self.failures),
        )
        text.counter(
            "sent_bytes_total",
            "Bodies sent to clients, by the way that they came.",
            {labels(way="p2p"): self.distributed_bytes, labels(way="forward"): self.forwarded_bytes},
        )
        return text.render()


def _by(label: str, counts: Counter[str]) -> dict[Labels, float]:
    return {labels(**{label: name}): count for name, count in sorted(counts.items())}
