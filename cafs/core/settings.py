"""The settings of one CAFS process: what each is called, means, defaults to and may be.

Pure data. ``cafs.cli.config`` fills it from files, environment and flags; whoever needs a setting is
handed the ``Settings`` object and never reads a file or a variable of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

_MIB, _GIB = 1 << 20, 1 << 30


class Kind(Enum):
    """How a setting is written down."""

    PATH = "path"
    BYTES = "size"
    COUNT = "number"
    SECONDS = "number of seconds"
    NAMES = "list of names"


def _about(kind: Kind, doc: str, *, least: float = 0, most: float = 2**63 - 1) -> dict[str, Any]:
    """How a setting is written, explained and bounded: the metadata of its field."""
    return {"kind": kind, "doc": doc, "least": least, "most": most}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be configured. The defaults suit one machine and one registry."""

    cache_dir: Path = field(
        metadata=_about(
            Kind.PATH, "where indexes, chunks and profiles are kept; on a local filesystem, LMDB needs one"
        )
    )
    run_dir: Path = field(
        metadata=_about(Kind.PATH, "where sockets and the state of running mounts are kept")
    )
    store_quota_bytes: int = field(
        default=20 * _GIB,
        metadata=_about(Kind.BYTES, "how much the chunk store may hold", least=16 * _MIB),
    )
    memory_cache_bytes: int = field(
        default=32 * _MIB,
        metadata=_about(Kind.BYTES, "plain chunks that a mount keeps in memory", least=4 * _MIB),
    )
    fetch_concurrency: int = field(
        default=8,
        metadata=_about(Kind.COUNT, "range requests that one mount has under way at once", least=1, most=256),
    )
    read_deadline_s: float = field(
        default=60.0,
        metadata=_about(
            Kind.SECONDS,
            "after this long a read whose bytes have not come fails with ETIMEDOUT",
            least=0.1,
            most=86400,
        ),
    )
    connect_timeout_s: float = field(
        default=10.0,
        metadata=_about(
            Kind.SECONDS, "how long to wait for a connection to a registry", least=0.1, most=3600
        ),
    )
    stall_timeout_s: float = field(
        default=20.0,
        metadata=_about(
            Kind.SECONDS,
            "how long a registry may send nothing before a request is given up and tried again",
            least=0.1,
            most=3600,
        ),
    )
    retries: int = field(
        default=5,
        metadata=_about(
            Kind.COUNT, "how often a request is tried again after a failure that may pass", most=100
        ),
    )
    insecure_registries: tuple[str, ...] = field(
        default=(),
        metadata=_about(Kind.NAMES, "registries (HOST or HOST:PORT) spoken to in plain HTTP"),
    )
    convert_workers: int = field(
        default=0,
        metadata=_about(
            Kind.COUNT, "layers and chunks converted side by side; 0: one for each core", most=256
        ),
    )
