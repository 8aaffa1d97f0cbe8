"""Fetching what nobody waits for yet: read-ahead, the access profile, the rest of the image.

Owned by ``ChunkService``, which hands in the reads that it sees; runs as tasks in the service's nursery.
Every way of prefetching ends in ``Prefetcher.bring``: chunks that are neither here nor under way are fetched
at a lower priority. What is under way is bounded in bytes, so that a slow link or disk holds prefetching
back.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from typing import Protocol

import trio

from cafs.core.chunk import ChunkRef
from cafs.core.profile import Profile, locate
from cafs.fetch.flights import Flight
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.reader import LayerReader

log = logging.getLogger(__name__)

BATCH_ROWS = 256
"""Rows whose presence in the store is asked for in one go."""
READAHEAD_INBOX = 64
"""Windows waiting to be fetched ahead; when they are more, readers are ahead of us anyway."""
LOAD_FROM_BYTES = 512 << 10
"""Windows so long are loaded from the store before they are read: the stream has read about 2 MiB."""
LOAD_BYTES = 1 << 20
"""Decoded in one go."""
LOADS_AT_ONCE = 2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""Between attempts to fetch the rest while sources fail."""
STORE_SHARE = 0.8
"""An image larger than this part of the store is not fetched whole: it would drive itself out again."""


class Prefetch(StrEnum):
    """What to fetch before anybody reads it."""

    NONE = "none"
    PROFILE = "profile"
    """What an earlier start read, in its order."""
    ALL = "all"
    """Everything."""
    AUTO = "auto"
    """The profile if there is one; everything once a large part was read anyway."""

    @property
    def wants_profile(self) -> bool:
        """Whether an access profile is of use."""
        return self in {Prefetch.PROFILE, Prefetch.AUTO}


class ChunkBroker(Protocol):
    """What prefetching needs of the service."""

    def is_near(self, digest: bytes) -> bool:
        """In memory, or on its way."""
        ...

    async def kept(self, digests: Sequence[bytes]) -> Sequence[bool]:
        """Which of these the store holds."""
        ...

    def note_ahead(self, layer: LayerReader, row: int, ref: ChunkRef) -> None:
        """A row is fetched that nobody has asked for."""
        ...

    def launch(self, wanted: Sequence[tuple[LayerReader, ChunkRef]], priority: Priority) -> list[Flight]:
        """Fetch these."""
        ...

    async def load(self, layer: LayerReader, rows: Sequence[int]) -> None:
        """Bring what the store holds of these rows into memory, and have the rest fetched."""
        ...

    @property
    def stores(self) -> bool:
        """Is there a store that takes chunks?"""
        ...


class Prefetcher:
    """Decides what to fetch ahead, and keeps it within bounds."""

    def __init__(self, broker: ChunkBroker, limits: FetchLimits) -> None:
        self._broker = broker
        self._limits = limits
        self._windows, self._inbox = trio.open_memory_channel[tuple[LayerReader, int, int]](READAHEAD_INBOX)
        self._images: list[_Image] = []

    def note_window(self, layer: LayerReader, offset: int, end: int) -> None:
        """A sequential reader should find this range of the virtual image soon."""
        try:
            self._windows.send_nowait((layer, offset, end))
        except trio.WouldBlock:
            log.debug("read-ahead is behind its readers, a window is left out")

    def note_touched(self, layer: LayerReader, plain_bytes: int) -> None:
        """A reader has read so much more of a layer."""
        for image in self._images:
            image.note_touched(layer, plain_bytes)

    async def run_readahead(self) -> None:
        """Serve the windows of sequential readers."""
        parts, waiting = trio.open_memory_channel[tuple[LayerReader, list[int]]](0)
        async with trio.open_nursery() as nursery:
            for _ in range(LOADS_AT_ONCE):
                nursery.start_soon(self._load, waiting)
            async for layer, offset, end in self._inbox:
                rows = layer.rows_between(offset, end)
                if end - offset < LOAD_FROM_BYTES:
                    await self.bring(layer, list(rows), Priority.READAHEAD)
                else:
                    for part in list(_parts(layer, rows, LOAD_BYTES)):
                        await parts.send((layer, part))

    async def _load(self, waiting: trio.MemoryReceiveChannel[tuple[LayerReader, list[int]]]) -> None:
        """A stream that goes on: what is on this machine is decoded ahead of it too, on the other core."""
        async for layer, part in waiting:
            await self._broker.load(layer, part)

    async def run(self, mode: Prefetch, layers: Sequence[LayerReader], profile: Profile | None) -> None:
        """Prefetch the image of these layers as ``mode`` says; ends when there is nothing more to fetch."""
        image = _Image(layers, self._limits.fill_after_fraction)
        self._images.append(image)
        try:
            if mode.wants_profile and profile is not None:
                await self._follow(profile, layers)
            if mode is Prefetch.AUTO:
                await image.much_was_read.wait()
            if mode in (Prefetch.ALL, Prefetch.AUTO):
                await self._fill(layers)
        finally:
            self._images.remove(image)

    async def bring(self, layer: LayerReader, rows: Sequence[int], priority: Priority) -> list[Flight]:
        """Have fetched what of these rows is neither here nor under way; returns what is under way now."""
        wanted = [
            (row, ref)
            for row, ref in ((row, layer.ref(row)) for row in rows if not layer.local[row])
            # A fill looks at what is under way too, to join it: whoever began it may leave it.
            if priority is Priority.FILL or not self._broker.is_near(ref.digest)
        ]
        if not wanted:
            await trio.lowlevel.checkpoint()
            return []
        missing = []
        kept = await self._broker.kept([ref.digest for _, ref in wanted])
        for (row, ref), here in zip(wanted, kept, strict=True):
            if here:
                layer.local[row] = 1
            else:
                missing.append((layer, ref))
                if priority is Priority.READAHEAD:
                    self._broker.note_ahead(layer, row, ref)
        return self._broker.launch(missing, priority)

    async def _follow(self, profile: Profile, layers: Sequence[LayerReader]) -> None:
        window = _Window(self._limits.readahead_bytes)
        places: dict[int, tuple[LayerReader, dict[bytes, int]]] = {}
        for number, diff_id in enumerate(profile.layers):
            layer = next((layer for layer in layers if layer.name == diff_id), None)
            if layer is not None:
                # In a thread: it reads the whole chunk table.
                found = await trio.to_thread.run_sync(locate, layer.table, profile.of_layer(diff_id))
                places[number] = layer, found
        for number, run in groupby(profile.chunks, key=lambda chunk: chunk[0]):
            if number in places:
                layer, found = places[number]
                rows = [found[prefix] for _, prefix in run if prefix in found]
                for batch in _batches(rows, BATCH_ROWS):
                    await window.add(await self.bring(layer, batch, Priority.PROFILE))
        await window.finish()

    async def _fill(self, layers: Sequence[LayerReader]) -> None:
        if not self._worth_filling(layers):
            return
        pause_s = FIRST_PAUSE_S
        while not await self._fill_once(layers):
            log.info("some chunks could not be fetched in advance, again in %.0f s", pause_s)
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _fill_once(self, layers: Sequence[LayerReader]) -> bool:
        """One pass over everything that is not here; True if nothing failed."""
        window = _Window(self._limits.fill_range_bytes * max(self._limits.concurrency // 2, 1))
        for layer in layers:
            for batch in _batches(range(len(layer.table)), BATCH_ROWS):
                await window.add(await self.bring(layer, batch, Priority.FILL))
                if not self._broker.stores:
                    return True
                if window.failures:
                    return False
        await window.finish()
        return not window.failures

    def _worth_filling(self, layers: Sequence[LayerReader]) -> bool:
        size = sum(layer.blob_bytes for layer in layers)
        if self._broker.stores and size <= self._limits.store_bytes * STORE_SHARE:
            return True
        log.info("the rest of the image (%d bytes) is not fetched in advance: no store has room", size)
        return False


class _Image:
    """How much of an image was read."""

    def __init__(self, layers: Sequence[LayerReader], much: float) -> None:
        self._layers = frozenset(layers)
        self._missing_bytes = sum(layer.data_bytes * much - layer.touched_bytes for layer in self._layers)
        self.much_was_read = trio.Event()
        self._judge()

    def note_touched(self, layer: LayerReader, plain_bytes: int) -> None:
        """A reader has read so much more of a layer, which may be another image's."""
        if layer in self._layers:
            self._missing_bytes -= plain_bytes
            self._judge()

    def _judge(self) -> None:
        if self._missing_bytes <= 0:
            self.much_was_read.set()


class _Window:
    """Flights under way, at most so many bytes of them."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._flights: deque[Flight] = deque()
        self._bytes = 0
        self.failures = 0

    async def add(self, flights: Sequence[Flight]) -> None:
        """Take flights in, and wait until they are within the limit."""
        self._flights.extend(flights)
        self._bytes += sum(flight.ref.frame_bytes for flight in flights)
        await self._shrink(self._limit_bytes)

    async def finish(self) -> None:
        """Wait for all of them."""
        await self._shrink(0)

    async def _shrink(self, limit_bytes: int) -> None:
        while self._flights and (self._bytes > limit_bytes or self._flights[0].done):
            flight = self._flights.popleft()
            await flight.wait()
            self._bytes -= flight.ref.frame_bytes
            self.failures += flight.failure is not None


def _batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _parts(layer: LayerReader, rows: range, size_bytes: int) -> Iterator[list[int]]:
    """The rows in runs of about so many plain bytes."""
    part: list[int] = []
    size = 0
    for row in rows:
        part.append(row)
        size += layer.ref(row).plain_bytes
        if size >= size_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part
