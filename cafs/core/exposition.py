"""Counting latencies, and writing figures as Prometheus text (exposition format 0.0.4). Pure.

Used by mount server and snapshotter. Own code because it is this little: the usual library takes 14 MiB and
up to 0.1 s to load, in processes whose memory and start count. Its parser is the oracle of the tests.
Source: prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds for latencies: from a read out of the chunk store to a reader's deadline."""

Labels = tuple[tuple[str, str], ...]
"""Names and values."""


def labels(**values: str) -> Labels:
    """In the order given."""
    return tuple(values.items())


class Histogram:
    """How often a value fell between which bounds. A note costs a third of a microsecond; for one thread."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """For each bound the values up to it and above the one before; last those above all."""
        self.total = 0.0

    def note(self, value: float, times: int = 1) -> None:
        """One more value (or several equal ones)."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def copy(self) -> Histogram:
        """A picture of now."""
        copied = Histogram(self.bounds)
        copied.counts, copied.total = list(self.counts), self.total
        return copied


class MetricsText:
    """Gathers metrics, and is their text in the end."""

    def __init__(self, prefix: str) -> None:
        """``prefix`` begins every name."""
        self._prefix = prefix
        self._lines: list[str] = []

    def gauge(self, name: str, text: str, samples: float | Mapping[Labels, float]) -> None:
        """A value that goes up and down."""
        self._plain("gauge", name, text, samples)

    def counter(self, name: str, text: str, samples: float | Mapping[Labels, float]) -> None:
        """A value that only grows, named ``…_total``."""
        self._plain("counter", name, text, samples)

    def histogram(self, name: str, text: str, samples: Histogram | Mapping[Labels, Histogram]) -> None:
        """Latencies."""
        full = self._head("histogram", name, text)
        for given, found in {(): samples}.items() if isinstance(samples, Histogram) else samples.items():
            seen = 0
            for bound, count in zip((*found.bounds, "+Inf"), found.counts, strict=True):
                seen += count
                self._sample(f"{full}_bucket", (*given, ("le", str(bound))), seen)
            self._sample(f"{full}_sum", given, found.total)
            self._sample(f"{full}_count", given, seen)

    def render(self) -> bytes:
        """The text."""
        return "".join(f"{line}\n" for line in self._lines).encode()

    def _plain(self, kind: str, name: str, text: str, samples: float | Mapping[Labels, float]) -> None:
        full = self._head(kind, name, text)
        for given, value in samples.items() if isinstance(samples, Mapping) else [((), samples)]:
            self._sample(full, given, value)

    def _head(self, kind: str, name: str, text: str) -> str:
        full = f"{self._prefix}_{name}"
        self._lines += [f"# HELP {full} {text}", f"# TYPE {full} {kind}"]
        return full

    def _sample(self, name: str, given: Iterable[tuple[str, str]], value: float) -> None:
        written = ",".join(f'{key}="{_escape(text)}"' for key, text in given)
        number = f"{value:d}" if isinstance(value, int) else repr(value)
        self._lines.append(f"{name}{{{written}}} {number}" if written else f"{name} {number}")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
