"""What the scheduler counts, and its Prometheus text. Pure; docs/scheduler.md has the table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from cafs.core.exposition import Histogram, MetricsText, labels
from cafs.core.scheduling.state import State

_BOUNDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1)
"""Seconds that an event takes."""


@dataclass(slots=True)
class Tally:
    """Running counts of the shell; those of the core are its own."""

    events: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=lambda: Histogram(_BOUNDS))
    dropped: int = 0
    """Hosts that read too slowly."""
    rejected: int = 0
    """Streams that sent something malformed."""
    mistakes: int = 0

    def note_event(self, kind: str, took_s: float) -> None:
        """The core has handled one."""
        self.events[kind] += 1
        self.seconds.note(took_s)

    def amounts(self) -> dict[str, int]:
        """By the names of ``core.statistics.amounts``."""
        return {"registrations": self.events["PeerRegister"], "decisions": self.decisions.total()}

    def render(self, state: State, connected: int, relayed: int = 0) -> bytes:
        """As Prometheus text.

        Args:
            state: Of the core.
            connected: Hosts with a stream.
            relayed: Hosts that reach the manager by way of this scheduler.
        """
        text = MetricsText("cafs_scheduler")
        text.counter("events_total", "Events that the core handled.", _by("kind", self.events))
        text.histogram("event_seconds", "How long the core took for an event.", self.seconds)
        text.counter("decisions_total", "Decisions that were sent.", _by("kind", self.decisions))
        text.counter("core_total", "What the core counts, by its name for it.", _by("what", state.counts))
        text.counter(
            "slow_hosts_dropped_total", "Streams ended because the host read too slowly.", self.dropped
        )
        text.counter("streams_rejected_total", "Streams ended because of what came.", self.rejected)
        text.counter("mistakes_total", "Times that the scheduler had to begin anew.", self.mistakes)
        text.gauge("connected_hosts", "Hosts with a stream.", connected)
        text.gauge("relayed_hosts", "Hosts that reach the manager by way of this scheduler.", relayed)
        text.gauge(
            "hosts", "Hosts by state.", _by("state", Counter(h.state.name for h in state.hosts.values()))
        )
        text.gauge(
            "tasks", "Tasks by state.", _by("state", Counter(t.state.name for t in state.tasks.values()))
        )
        text.gauge("peers", "Downloads under way.", len(state.peers))
        text.gauge("seeds", "Seed hosts.", len(state.seeds))
        text.gauge("shunned_hosts", "Hosts that are nobody's parents.", len(state.court.sentences))
        return text.render()


def _by(label: str, counts: Counter[str]) -> dict[tuple[tuple[str, str], ...], float]:
    return {labels(**{label: name.lower()}): count for name, count in sorted(counts.items())}
