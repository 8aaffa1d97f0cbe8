"""What the manager counts, and its Prometheus text. docs/manager.md has the table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cafs.core.exposition import Histogram, Labels, MetricsText, labels


@dataclass(slots=True)
class Tally:
    """Running counts. Belongs to the event loop's thread."""

    requests: Counter[Labels] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=Histogram)
    database_failures: int = 0

    def note_request(self, method: str, route: str, status: int, took_s: float) -> None:
        """One was answered. ``route`` is the pattern, so that names of things do not become labels."""
        known = method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} else "other"
        self.requests[labels(method=known, route=route, status=str(status))] += 1
        self.seconds.note(took_s)

    def render(self, replicas: int) -> bytes:
        """As Prometheus text.

        Args:
            replicas: Managers that live on this database.
        """
        text = MetricsText("cafs_manager")
        text.counter("requests_total", "Requests of REST that were answered.", self.requests)
        text.histogram("request_seconds", "How long they took.", self.seconds)
        text.counter("database_failures_total", "Beats that found no database.", self.database_failures)
        text.gauge("replicas", "Managers on this database, this one included.", replicas)
        return text.render()
