"""Which chunks are on their way: the flights of a service. Used by ``service`` only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cafs.core.chunk import ChunkRef
from cafs.fetch.flights import Flight, Origin


class UnderWay:
    """Flights by digest: one for all who would ask the same sources for the same chunk.

    Who would ask others has a flight of his own. What an image says of a chunk is not proved before the chunk
    is here, and its registry may be slow, away or hostile: that must fail no reader of another image.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, list[Flight]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._flights.values()))

    def __iter__(self) -> Iterator[Flight]:
        for flights in self._flights.values():
            yield from flights

    def __contains__(self, digest: bytes) -> bool:
        """Whether anybody's flight brings this chunk."""
        return digest in self._flights

    def of(self, digest: bytes) -> Sequence[Flight]:
        """All flights of this chunk."""
        return tuple(self._flights.get(digest, ()))

    def find(self, ref: ChunkRef, origin: Origin) -> Flight | None:
        """The flight that asks for this very chunk where we would."""
        for flight in self._flights.get(ref.digest, ()):
            if flight.ref.plain_bytes == ref.plain_bytes and flight.origin.sources == origin.sources:
                return flight
        return None

    def add(self, flight: Flight) -> None:
        """It begins."""
        self._flights.setdefault(flight.ref.digest, []).append(flight)

    def remove(self, flight: Flight) -> None:
        """It has ended."""
        flights = self._flights[flight.ref.digest]
        flights.remove(flight)
        if not flights:
            del self._flights[flight.ref.digest]
