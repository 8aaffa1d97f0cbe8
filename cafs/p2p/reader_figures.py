"""What readers of this host were given that was here before they came, and how long they waited. Pure."""

from __future__ import annotations

from cafs.core.exposition import Histogram
from cafs.core.statistics.amounts import FIRST_BYTE_BOUNDS_MS, FIRST_BYTE_UP_TO, first_byte
from cafs.core.statistics.shares import Shares
from cafs.core.swarm.task import TaskSpec

_BOUNDS_S = tuple(bound / 1000 for bound in FIRST_BYTE_BOUNDS_MS)


class ReaderFigures:
    """Of all readers, since the start."""

    def __init__(self, shares: Shares) -> None:
        """``shares``: by task and application."""
        self._shares = shares
        self.local_bytes = 0
        self.first_byte = Histogram(_BOUNDS_S)

    def amounts(self) -> dict[str, int]:
        """By the names of ``core.statistics.amounts``."""
        counts = self.first_byte.counts
        return {
            "local_bytes": self.local_bytes,
            "first_bytes": sum(counts),
            "first_byte_ms": round(self.first_byte.total * 1000),
            **dict(zip(FIRST_BYTE_UP_TO, counts, strict=False)),
        }

    def reader(self, spec: TaskSpec, here: int, now: float) -> Reader:
        """Somebody asks.

        Args:
            spec: For what.
            here: Bitmap of the pieces that are here.
            now: By the clock of ``Reader.given``, in seconds.
        """
        return Reader(self, spec, here, now)

    def note_first(self, spec: TaskSpec, wait_s: float) -> None:
        """Somebody has the first byte."""
        self.first_byte.note(wait_s)
        self._shares.note(spec.task_id, spec.application, **first_byte(round(wait_s * 1000)))

    def note_local(self, spec: TaskSpec, count: int) -> None:
        """Somebody was given so many bytes that were here before."""
        self.local_bytes += count
        self._shares.note(spec.task_id, spec.application, local_bytes=count)


class Reader:
    """One of them."""

    __slots__ = ("_began", "_figures", "_here", "_spec")

    def __init__(self, figures: ReaderFigures, spec: TaskSpec, here: int, now: float) -> None:
        self._figures = figures
        self._spec = spec
        self._here = here
        self._began: float | None = now

    def given(self, number: int, count: int, now: float) -> None:
        """So many bytes of a piece."""
        if self._began is not None:
            self._figures.note_first(self._spec, now - self._began)
            self._began = None
        if self._here >> number & 1:
            self._figures.note_local(self._spec, count)
