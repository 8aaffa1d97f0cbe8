"""What the mount server tells about itself: the data behind ``GET /layers``, ``/status`` and ``/metrics``.

Frozen pictures; whoever renders them (JSON here, Prometheus text for metrics) counts nothing of its own.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cafs import __version__
from cafs.control_socket.protocol import Reason
from cafs.core.exposition import Histogram
from cafs.fetch.service import ChunkService
from cafs.fetch.stats import LayerStats, ServiceStats
from cafs.fuse.flat import FlatTree
from cafs.node.mountd.layers import ShownLayer
from cafs.node.mountd.state import LayerRecord

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(slots=True)
class Tally:
    """What was asked over the control socket. Running counts, touched in the trio thread only."""

    added: int = 0
    """POSTs that were answered with a layer."""
    add_seconds: Histogram = field(default_factory=Histogram)
    """How long those took."""
    refused: Counter[Reason] = field(default_factory=Counter)
    """POSTs that were not, by reason: each is a layer that is not lazy."""


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """One layer."""

    record: LayerRecord
    stats: LayerStats
    virtual_bytes: int
    data_bytes: int
    hides: bool
    held: bool
    """The kernel knows the file: it is mounted or open, or was a moment ago."""

    def to_json(self, here_bytes: int) -> dict[str, Any]:
        """As one member of ``GET /layers``."""
        record = self.record
        return {
            "name": record.name,
            "layer": record.layer,
            "diff_id": record.diff_id,
            "images": [asdict(image) for image in record.images],
            "virtual_bytes": self.virtual_bytes,
            "data_bytes": self.data_bytes,
            "hides": self.hides,
            "held": self.held,
            "removed": record.hidden,
            "here_bytes": here_bytes,
            **asdict(self.stats),
        }


@dataclass(frozen=True, slots=True)
class Figures:
    """The whole server at one moment."""

    service: ServiceStats
    layers: tuple[LayerFigures, ...]
    added: int
    add_seconds: Histogram
    refused: dict[str, int]
    resident_bytes: int
    started_at: float
    """Seconds since the epoch, of this server process."""


def layer_figures(layer: ShownLayer, service: ChunkService, tree: FlatTree) -> LayerFigures:
    """One layer now."""
    return LayerFigures(
        record=layer.record,
        stats=service.layer_stats(layer.reader),
        virtual_bytes=layer.index.virtual_bytes,
        data_bytes=layer.reader.data_bytes,
        hides=layer.index.header.hides,
        held=tree.is_held(layer.record.node),
    )


def status_json(figures: Figures, fuse: Path, *, can_resend: bool) -> dict[str, Any]:
    """``GET /status``."""
    return {
        "version": __version__,
        "fuse": str(fuse),
        "server_pid": os.getpid(),
        "supervisor_pid": os.getppid(),
        "started_at": figures.started_at,
        "resends": can_resend,
        "layers": len(figures.layers),
        "added": figures.added,
        "add_seconds": figures.add_seconds.total,
        "refused": figures.refused,
        "resident_bytes": figures.resident_bytes,
        "chunks": figures.service.to_json(),
    }


def resident_bytes() -> int:
    """Of this process; proc(5), "statm"."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES
