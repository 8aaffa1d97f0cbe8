"""The narrow interface through which chunk frames come: registries, OCI layouts, files, peers.

Layers of behaviour (retry, limit, single flight, record of failures) stack on the same interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cafs.core.digest import Digest


@dataclass(frozen=True, slots=True)
class BlobRef:
    """One blob: its OCI digest and its exact size in bytes."""

    digest: Digest
    size: int


class BlobSource(Protocol):
    """Reads ranges of immutable blobs.

    May be called concurrently from one trio thread. After a failure the source stays usable. The
    bytes are *not* verified here: whoever turns them into chunks does that (``decode_frame``).
    """

    @property
    def name(self) -> str:
        """For messages and ``cafs explain``: scheme, host and repository, never a credential."""
        ...

    async def read_range(self, blob: BlobRef, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``.

        Raises:
            RemoteError: the origin failed (AuthError, DeadlineError, ProtocolError say how).
            NotFoundError: it has no such blob.
            StorageError: a local file could not be read.
        """
        ...
