"""What a peer says of itself: ``GET /v1/status`` and ``GET /metrics``."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cafs import __version__
from cafs.core.exposition import MetricsText, labels
from cafs.p2p.chunk_exchange import ChunkExchange
from cafs.p2p.engine import Engine
from cafs.p2p.means import Means
from cafs.p2p.profile_relay import ProfileRelay
from cafs.p2p.uploads import Uploads


class PeerFigures:
    """Reads what the parts of a peer count."""

    def __init__(
        self,
        means: Means,
        engine: Engine,
        exchange: ChunkExchange,
        uploads: Uploads,
        profiles: ProfileRelay,
        *,
        seed: bool,
    ) -> None:
        self._means = means
        self._engine = engine
        self._exchange = exchange
        self._uploads = uploads
        self._profiles = profiles
        self._seed = seed
        self._began = time.monotonic()
        self.store_bytes = 0
        """What chunks take in the store, when somebody looked last."""

    def status(self) -> dict[str, Any]:
        """For people and programs."""
        tasks = self._means.tasks
        return {
            "version": __version__,
            "pid": os.getpid(),
            "host_id": self._means.me,
            "type": "seed" if self._seed else "normal",
            "up_s": round(time.monotonic() - self._began, 1),
            "resident_bytes": resident_bytes(),
            "schedulers": self._means.schedulers.connected,
            "tasks": len(tasks.tasks()),
            "task_bytes": tasks.used_bytes,
            "uploads": self._uploads.active,
            "upload_bytes": self._means.limits.upload.total_bytes,
            "downloads": {"active": len(self._engine.active), **asdict(self._means.figures)},
            "chunks": asdict(self._exchange.figures),
            "profiles": asdict(self._profiles.figures),
            "downloading": sorted(self._engine.active),
            "traffic": self._means.traffic.to_json(),
            "limits": self._means.limits.now.to_json(),
        }

    def amounts(self) -> dict[str, int]:
        """What grew since the start, by the names of ``core.statistics.amounts``."""
        downloads, chunks = self._means.figures, self._exchange.figures
        return {
            "origin_bytes": downloads.source_bytes + chunks.source_bytes,
            "seed_bytes": downloads.seed_bytes,
            "peer_bytes": downloads.peer_bytes - downloads.seed_bytes + chunks.peer_bytes,
            "upload_bytes": self._means.limits.upload.total_bytes,
            "downloads_succeeded": downloads.succeeded,
            "downloads_failed": downloads.failed,
            "pieces_succeeded": downloads.good_pieces,
            "pieces_failed": downloads.failed_pieces,
            "pieces_wrong": downloads.wrong_pieces,
            "chunks_brought": chunks.brought,
            "chunks_not_brought": chunks.not_brought,
            **self._means.readers.amounts(),
        }

    def levels(self) -> dict[str, int]:
        """What holds now, by the same names."""
        tasks, limits = self._means.tasks, self._means.limits.now
        return {
            "store_bytes": self.store_bytes,
            "store_quota_bytes": limits.store_quota_bytes,
            "task_bytes": tasks.used_bytes,
            "task_quota_bytes": limits.task_quota_bytes,
            "tasks": len(tasks.tasks()),
        }

    def metrics(self) -> bytes:
        """As Prometheus text."""
        text, chunks, limits = MetricsText("cafs_peer"), self._exchange.figures, self._means.limits
        downloads, tasks = self._means.figures, self._means.tasks
        text.gauge("resident_bytes", "Memory that the process takes.", resident_bytes())
        text.gauge("tasks", "Contents that are held.", len(tasks.tasks()))
        text.gauge("task_bytes", "What they take on the disk.", tasks.used_bytes)
        text.gauge("task_quota_bytes", "And may take.", limits.now.task_quota_bytes)
        text.gauge("store_bytes", "What chunks take in the store.", self.store_bytes)
        text.gauge("store_quota_bytes", "And may take.", limits.now.store_quota_bytes)
        text.gauge("uploads", "Requests of other hosts being served.", self._uploads.active)
        text.counter("uploads_total", "Requests of other hosts that were served.", self._uploads.served)
        text.counter("uploads_refused_total", "Requests told to come again.", self._uploads.refused)
        text.counter("upload_bytes_total", "Sent to other hosts.", limits.upload.total_bytes)
        text.gauge("schedulers", "Schedulers that answer.", len(self._means.schedulers.connected))
        text.gauge("downloads", "Contents being downloaded.", len(self._engine.active))
        text.counter(
            "downloads_total",
            "Downloads that ended, by how.",
            {
                labels(result="succeeded"): downloads.succeeded,
                labels(result="failed"): downloads.failed,
                labels(result="unforeseen"): downloads.unforeseen,
            },
        )
        text.counter(
            "piece_bytes_total",
            "Verified pieces that came, by whence.",
            {
                labels(source="peers"): downloads.peer_bytes - downloads.seed_bytes,
                labels(source="seeds"): downloads.seed_bytes,
                labels(source="origin"): downloads.source_bytes,
            },
        )
        readers = self._means.readers
        text.counter("local_bytes_total", "Given to readers, and here before they came.", readers.local_bytes)
        text.histogram("first_byte_seconds", "How long readers waited for a first byte.", readers.first_byte)
        text.counter("pieces_total", "Verified pieces that came.", downloads.good_pieces)
        text.counter("pieces_wrong_total", "Pieces from other hosts that were wrong.", downloads.wrong_pieces)
        text.counter("pieces_failed_total", "Requests for pieces that failed.", downloads.failed_pieces)
        text.counter(
            "chunk_bytes_total",
            "Frames of chunks that came, by whence.",
            {labels(source="peers"): chunks.peer_bytes, labels(source="registry"): chunks.source_bytes},
        )
        text.counter(
            "chunks_total",
            "Chunks that mount servers asked for, by what came of it.",
            {labels(result="brought"): chunks.brought, labels(result="not_brought"): chunks.not_brought},
        )
        text.counter("chunks_served_total", "Chunks given to other hosts.", chunks.served)
        text.counter("chunks_wrong_total", "Chunks from other hosts that were wrong.", chunks.wrong)
        text.counter("peer_failures_total", "Requests for chunks that other hosts failed.", chunks.failed)
        profiles = self._profiles.figures
        text.counter(
            "profiles_asked_total",
            "Mounts that asked what is learned of starts, by what they were told.",
            {labels(result="learned"): profiles.learned, labels(result="nothing"): profiles.nothing},
        )
        text.counter(
            "starts_total",
            "Starts of images that were offered to the manager, and that it wanted.",
            {labels(result="offered"): profiles.offered, labels(result="told"): profiles.told},
        )
        return text.render()


def resident_bytes() -> int:
    """Memory of this process: proc(5), second field of statm."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
