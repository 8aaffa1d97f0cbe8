"""What the chunk exchange counts, of chunks unless named otherwise, since the start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ChunkFigures:
    """Running counts: the exchange adds to them, metrics read them."""

    brought: int = 0
    """For this host's mount servers."""
    not_brought: int = 0
    """These were told to ask the registry themselves."""
    from_peers: int = 0
    peer_bytes: int = 0
    from_source: int = 0
    """From registries, by this host."""
    source_bytes: int = 0
    served: int = 0
    """To other hosts."""
    served_bytes: int = 0
    failed: int = 0
    """Requests to other hosts."""
    wrong: int = 0
    """That other hosts sent and that did not match their digest."""
