"""The narrow interface through which chunk frames come: registries, OCI layouts, files, peers.

Layers of behaviour (retry, limit, single flight, record of failures) stack on the same interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast, runtime_checkable

from cafs.core.chunk_ref import ChunkRef
from cafs.core.digest import Digest


class BlobRef(NamedTuple):
    """One blob: its OCI digest and its exact size in bytes."""

    digest: Digest
    size: int


class Span(NamedTuple):
    """A range of a blob."""

    offset: int
    length: int


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


class ScatteredSource(BlobSource, Protocol):
    """A source to which one request for several ranges costs less than one for each."""

    @property
    def most_ranges(self) -> int:
        """So many in one call; 1 when it was seen that they are answered one by one anyway."""
        ...

    async def read_ranges(self, blob: BlobRef, spans: Sequence[Span]) -> list[bytes]:
        """The bytes of each; raises as ``read_range``."""
        ...


def most_ranges(source: BlobSource) -> int:
    """How many ranges may be asked of any source in one call."""
    most: int = getattr(source, "most_ranges", 1)
    return most


async def read_spans(source: BlobSource, blob: BlobRef, spans: Sequence[Span]) -> list[bytes]:
    """The bytes of each, in as few calls as any source allows; raises as ``BlobSource.read_range``."""
    most = most_ranges(source)
    if most == 1 or len(spans) == 1:
        return [await source.read_range(blob, *span) for span in spans]
    scattered, bodies = cast("ScatteredSource", source), []
    for begin in range(0, len(spans), most):
        bodies += await scattered.read_ranges(blob, spans[begin : begin + most])
    return bodies


class ChunkAnswer(NamedTuple):
    """Ranges of a blob in which nothing but the wanted frames need be right."""

    bodies: Sequence[bytes]
    """One for each range."""
    kept: frozenset[bytes] = frozenset()
    """Digests of chunks that whoever answered keeps in the chunk store of this machine."""
    stored: frozenset[bytes] = frozenset()
    """Of those whose frames are therefore not in the bodies. Only of what nobody waits for."""


@runtime_checkable
class ChunkSource(BlobSource, Protocol):
    """A source that may answer better when it knows which chunks are wanted: it can find them elsewhere."""

    @property
    def is_aided(self) -> bool:
        """Somebody else answers for it just now: how long that takes does not say how far away it is."""
        ...

    async def read_chunks(
        self, blob: BlobRef, spans: Sequence[Span], refs: Sequence[ChunkRef], urgency: int
    ) -> ChunkAnswer:
        """As ``read_spans``, of ranges that hold the frames of ``refs``, each in one of them.

        ``urgency`` is 0 when a reader waits, and the larger the less anybody does
        (``cafs.fetch.limits.Priority``).
        """
        ...
