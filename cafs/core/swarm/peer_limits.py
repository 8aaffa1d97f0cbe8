"""What a peer may do at once and how fast, as it is configured and changed while it runs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from cafs.errors import UsageError

LARGEST = 1 << 50
_LEAST_QUOTA = 16 << 20


def _least(default: int, least: int) -> int:
    """A limit below which a peer could do nothing at all."""
    value: int = field(default=default, metadata={"least": least})
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLimits:
    """Of one host, and of each task on it. A rate of 0 is no limit."""

    concurrent_uploads: int = 64
    """Requests of other hosts served at once; 0: nobody is served."""
    uploads_per_client: int = _least(16, 1)
    """Of these, of one address."""
    concurrent_children: int = _least(64, 1)
    """Addresses with requests that are being served."""
    concurrent_pieces: int = _least(32, 1)
    """Pieces being downloaded at once."""
    upload_bytes_per_s: int = 0
    download_bytes_per_s: int = 0
    """From other hosts."""
    source_bytes_per_s: int = 0
    """From origins and registries."""
    task_concurrent_pieces: int = _least(32, 1)
    """Of these, pieces of one task."""
    task_upload_bytes_per_s: int = 0
    """Of each task's pieces, to all hosts together."""
    task_download_bytes_per_s: int = 0
    task_source_bytes_per_s: int = 0
    task_quota_bytes: int = _least(20 << 30, _LEAST_QUOTA)
    """Held of files and blobs."""
    store_quota_bytes: int = _least(20 << 30, _LEAST_QUOTA)
    """Of the node's chunk store."""

    def to_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)

    def changed(self, document: Mapping[str, Any]) -> PeerLimits:
        """These, with what ``document`` says otherwise.

        Raises:
            UsageError: it names no limit, or no such value is possible; nothing is changed.
        """
        known = {limit.name: limit.metadata.get("least", 0) for limit in fields(self)}
        for name, value in document.items():
            if name not in known:
                raise UsageError(f"there is no limit {name[:40]!r}; there are {', '.join(sorted(known))}")
            if type(value) is not int or not known[name] <= value <= LARGEST:
                raise UsageError(f"{name} must be a whole number, {known[name]} or more")
        return replace(self, **document)

    def difference(self, before: PeerLimits) -> dict[str, int]:
        """What these say otherwise than ``before``, by name."""
        old = before.to_json()
        return {name: value for name, value in self.to_json().items() if value != old[name]}
