"""What the manager counts, and its Prometheus text. docs/manager.md has the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cafs.core.exposition import Histogram, Labels, MetricsText, labels
from cafs.core.statistics.amounts import SOURCES


@dataclass(slots=True)
class Tally:
    """Running counts. Belongs to the event loop's thread."""

    requests: Counter[Labels] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=Histogram)
    database_failures: int = 0
    arrivals: int = 0
    """Streams of services that began."""
    starts: int = 0
    """Of images, that profiles were learned of."""
    rejected: int = 0
    """And that were refused, or ended because of what came."""
    reports: int = 0
    """Of services, counted."""
    reports_dropped: int = 0
    """That could not be written; they are said again."""
    traffic: Counter[Labels] = field(default_factory=Counter)
    downloads: Counter[Labels] = field(default_factory=Counter)
    """Of the services that reported to this replica."""

    def note_request(self, method: str, route: str, status: int, took_s: float) -> None:
        """One was answered. ``route`` is the pattern, so that names of things do not become labels."""
        known = method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} else "other"
        self.requests[labels(method=known, route=route, status=str(status))] += 1
        self.seconds.note(took_s)

    def note_report(self, cluster_id: int, amounts: Mapping[str, int]) -> None:
        """One was counted, of a host of a cluster (0: of none)."""
        self.reports += 1
        cluster = str(cluster_id)
        for name in SOURCES:
            if count := amounts.get(name, 0):
                self.traffic[labels(cluster=cluster, source=name.removesuffix("_bytes"))] += count
        for result in ("succeeded", "failed"):
            if count := amounts.get(f"downloads_{result}", 0):
                self.downloads[labels(cluster=cluster, result=result)] += count

    def render(self, replicas: int, connected: Mapping[str, int], relayed: Sequence[int] = ()) -> bytes:
        """As Prometheus text.

        Args:
            replicas: Managers that live on this database.
            connected: Services with a stream to this one, by kind.
            relayed: How many of them come by way of each scheduler that passes hosts on.
        """
        text = MetricsText("cafs_manager")
        text.counter("requests_total", "Requests of REST that were answered.", self.requests)
        text.histogram("request_seconds", "How long they took.", self.seconds)
        text.counter("database_failures_total", "Beats that found no database.", self.database_failures)
        text.counter("arrivals_total", "Streams of services that began.", self.arrivals)
        text.counter("rejected_total", "Streams refused, or ended because of what came.", self.rejected)
        text.counter("starts_total", "Starts of images that profiles were learned of.", self.starts)
        text.counter("reports_total", "Reports of services that were counted.", self.reports)
        text.counter("reports_dropped_total", "And that could not be written.", self.reports_dropped)
        text.counter("traffic_bytes_total", "What hosts were given, by whence.", self.traffic)
        text.counter("downloads_total", "Downloads of hosts that ended, by how.", self.downloads)
        hosts = {labels(kind=kind): count for kind, count in sorted(connected.items())}
        text.gauge("connected_hosts", "Services with a stream to this replica.", hosts)
        text.gauge("relays", "Schedulers that pass hosts on to this replica.", len(relayed))
        text.gauge("relayed_hosts", "Services that come by way of them.", sum(relayed))
        text.gauge("replicas", "Managers on this database, this one included.", replicas)
        return text.render()
