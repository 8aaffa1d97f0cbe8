"""Chunks for all layers of a mount: memory, store, sources.

``ChunkService`` is used as an async context manager; everything it starts runs in its own nursery and ends
with it. One per process, used from one trio thread. How a read goes through it: ``docs/read-path.md``.

Cancellation: a reader that is cancelled leaves its flights; each goes on while anybody else waits for it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from cafs.core.chunk import ChunkRef
from cafs.core.digest import parse_digest
from cafs.core.patience import Patience
from cafs.core.profile import Profile
from cafs.core.source import BlobSource
from cafs.errors import CafsError, DeadlineError
from cafs.fetch.fetcher import Fetcher, explain_lateness
from cafs.fetch.flights import Flight, Origin
from cafs.fetch.journal import Journal
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.plain_cache import Plain, PlainCache
from cafs.fetch.prefetch import Prefetch, Prefetcher
from cafs.fetch.reader import LayerFile, LayerReader
from cafs.fetch.record import Recorder
from cafs.fetch.riders import AheadAccount, find_riders
from cafs.fetch.stats import Counters, ServiceStats
from cafs.fetch.store_reader import StoreReader
from cafs.fetch.verify import FrameStore
from cafs.fetch.write_behind import StoreWriter

log = logging.getLogger(__name__)

DRAIN_S = 5.0
"""How long closing waits for fetched chunks to be stored."""


class ChunkService:
    """Brings chunks to the readers of any number of layers.

    Args:
        store: Where chunks are kept on this machine; None: nowhere.
        limits: Bounds of memory, concurrency and time.
        journal: Where failures are written down; None: only in the log.
    """

    def __init__(self, store: FrameStore | None, limits: FetchLimits, journal: Journal | None = None) -> None:
        self._kept = StoreReader(store)
        self._limits = limits
        self._journal = journal or Journal(None)
        self._memory = PlainCache(limits.memory_cache_bytes)
        self._writer = StoreWriter(store, limits.write_behind_bytes)
        self._counters = Counters()
        self._flights: dict[bytes, Flight] = {}
        self._layers: list[LayerReader] = []
        self._touched_bytes = self._data_bytes = 0
        self._tasks = AsyncExitStack()
        self.prefetcher = Prefetcher(self, limits)
        self._ahead = AheadAccount()
        self._recorder: Recorder | None = None
        self._patience = Patience(limits.read_deadline_s)
        self._fetcher: Fetcher
        self._nursery: trio.Nursery

    async def __aenter__(self) -> Self:
        self._nursery = await self._tasks.enter_async_context(trio.open_nursery())
        self._fetcher = Fetcher(
            self._limits,
            self._nursery,
            self._writer,
            self._counters,
            done=self._finished,
            rng=random.Random(),  # noqa: S311 - spreads retries, guards nothing
        )
        self._nursery.start_soon(self._writer.run, trio.CapacityLimiter(1))
        self._nursery.start_soon(self.prefetcher.run_readahead)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            with trio.move_on_after(DRAIN_S):
                await self._writer.drain()  # noqa: ASYNC102 - cancelled, it need not store any more
        self._nursery.cancel_scope.cancel()
        if self._recorder is not None:
            self._recorder.save()
        # The nursery is not shown the error: it would wrap it in a group.
        await self._tasks.aclose()

    def add_layer(self, index: LayerFile, sources: Sequence[BlobSource], name: str) -> LayerReader:
        """A reader of this layer, whose blobs are asked of ``sources`` in that order."""
        layer = LayerReader(self, index, sources, name=name, readahead_bytes=self._limits.readahead_bytes)
        self._layers.append(layer)
        self._data_bytes += layer.data_bytes
        return layer

    def start_prefetch(self, mode: Prefetch, profile: Profile | None = None) -> None:
        """Begin to prefetch for the layers added so far."""
        self._nursery.start_soon(self.prefetcher.run, mode, tuple(self._layers), profile)

    def start_recording(self, path: Path) -> None:
        """Keep the order of first accesses to the layers added so far in this file.

        Raises:
            UsageError: the file is there and is no profile of these layers.
            StorageError: it cannot be read or written.
        """
        self._recorder = Recorder(path, [parse_digest(layer.name) for layer in self._layers])
        self._nursery.start_soon(self._recorder.run)

    def stats(self) -> ServiceStats:
        """The counters as they are now."""
        return self._counters.snapshot(
            under_way=len(self._flights),
            not_stored=self._writer.not_stored,
            touched_frame_bytes=sum(layer.touched_frame_bytes for layer in self._layers),
            touched_bytes=self._touched_bytes,
            total_bytes=self._data_bytes,
        )

    def cached(self, digest: bytes) -> Plain | None:
        """A plain chunk that is in memory."""
        plain = self._memory.get(digest)
        if plain is None:
            waiting = self._writer.get(digest)
            return None if waiting is None else waiting.plain
        return plain

    @property
    def stores(self) -> bool:
        """Is there a store that takes chunks?"""
        return self._writer.usable

    def note_ahead(self, layer: LayerReader, row: int, ref: ChunkRef) -> None:
        """A row is fetched that nobody has asked for."""
        self._ahead.note_ahead(layer, row, ref)

    def note_touched(self, layer: LayerReader, row: int, ref: ChunkRef) -> None:
        """A reader reads this chunk for the first time."""
        self._ahead.note_touched(layer, row, ref)
        if self._recorder is not None:
            self._recorder.note(layer.name, ref.digest)
        self._touched_bytes += ref.plain_bytes
        self.prefetcher.note_touched(self._touched_bytes, self._data_bytes)

    def is_near(self, digest: bytes) -> bool:
        """In memory, or on its way."""
        return digest in self._memory or digest in self._flights or self._writer.get(digest) is not None

    async def kept(self, digests: Sequence[bytes]) -> Sequence[bool]:
        """Which of these the store holds."""
        return await self._kept.has(digests)

    def launch(self, wanted: Sequence[tuple[LayerReader, ChunkRef]], priority: Priority) -> list[Flight]:
        """Fetch for prefetching what is not near yet; the flights count prefetching as their waiter.

        A fill also joins flights of readers: it passes each chunk once, and a reader may leave its own.
        """
        flights = self._new_flights(wanted, priority)
        joined: list[Flight] = []
        if priority is Priority.FILL:
            fresh = {flight.ref.digest for flight in flights}
            others = {ref.digest for _, ref in wanted} - fresh
            joined = [flight for digest in others if (flight := self._flights.get(digest)) is not None]
        for flight in (*flights, *joined):
            flight.waiters += 1
        self._fetcher.submit(flights)
        return [*flights, *joined]

    def _new_flights(
        self, wanted: Sequence[tuple[LayerReader, ChunkRef]], priority: Priority
    ) -> list[Flight]:
        flights: list[Flight] = []
        for layer, ref in wanted:
            if not self.is_near(ref.digest):
                flight = self._flights[ref.digest] = Flight(ref, layer.origin(ref.blob), priority)
                flights.append(flight)
        return flights

    async def chunks(self, layer: LayerReader, rows: Sequence[int], deadline: float | None) -> list[Plain]:
        """The plain chunks of these rows; see ``LayerReader.read`` for what it raises."""
        began = trio.current_time()
        wanted = [(ref, layer.origin(ref.blob)) for ref in map(layer.ref, rows)]
        found = [self.cached(ref.digest) for ref, _ in wanted]
        joined, fresh = self._join(wanted, found)
        self._counters.memory_hits += len(rows) - len(joined)
        try:
            if fresh:
                await self._look_up(layer, rows[-1], fresh)
            if not all(flight.done for _, flight in joined):
                with trio.move_on_at(began + self._patience.seconds if deadline is None else deadline):
                    for _, flight in joined:
                        await flight.wait()
        finally:
            self._leave(joined)
        for place, flight in joined:
            found[place] = flight.plain
        waited_s = trio.current_time() - began
        self._raise_failures([flight for _, flight in joined], waited_s)
        if joined:
            self._patience.note_answer()
            self._counters.note_wait(waited_s)
        if self._writer.usable:
            for row in rows:
                layer.local[row] = 1
        return [plain for plain in found if plain is not None]

    def _join(
        self, wanted: Sequence[tuple[ChunkRef, Origin]], found: Sequence[Plain | None]
    ) -> tuple[list[tuple[int, Flight]], list[Flight]]:
        """Join the flight of each chunk that was not found: (place, flight) of all, and the new ones."""
        joined: list[tuple[int, Flight]] = []
        fresh: list[Flight] = []
        for place, (ref, origin) in enumerate(wanted):
            if found[place] is not None:
                continue
            flight = self._flights.get(ref.digest)
            if flight is None:
                flight = self._flights[ref.digest] = Flight(ref, origin, Priority.DEMAND)
                fresh.append(flight)
            else:
                self._fetcher.hasten(flight, Priority.DEMAND)
            flight.waiters += 1
            joined.append((place, flight))
        return joined, fresh

    async def _look_up(self, layer: LayerReader, last_row: int, fresh: Sequence[Flight]) -> None:
        """Ask the store for new flights, and have fetched what it does not hold, and riders with it."""
        missing = list(fresh)
        try:
            kept = await self._kept.get([(flight.ref.digest, flight.ref.plain_bytes) for flight in fresh])
            missing = [flight for flight, plain in zip(fresh, kept, strict=True) if plain is None]
            self._counters.store_hits += len(fresh) - len(missing)
            for flight, plain in zip(fresh, kept, strict=True):
                if plain is not None:
                    self._finished(flight, plain, None)
            if missing and missing[-1].ref.digest == layer.ref(last_row).digest:
                missing += await self._board(layer, last_row)
        finally:
            # Also when this reader was cancelled: others may have joined the flights meanwhile.
            if missing:
                self._fetcher.submit(missing)

    async def _board(self, layer: LayerReader, last_row: int) -> list[Flight]:
        """Flights of riders behind this row, as far as the store does not hold them."""
        room = min(self._limits.rider_bytes, self._ahead.allowance_bytes)
        riders = find_riders(layer, last_row, room, self.is_near)
        if not riders:
            return []
        kept = await self._kept.has([ref.digest for _, ref in riders])
        riders = [rider for rider, here in zip(riders, kept, strict=True) if not here]
        flights = self._new_flights([(layer, ref) for _, ref in riders], Priority.READAHEAD)
        for flight in flights:
            flight.rides = True
        for row, ref in riders:
            self._ahead.note_ahead(layer, row, ref)
        return flights

    def _finished(self, flight: Flight, plain: Plain | None, failure: CafsError | None) -> None:
        """A flight has ended, well or not."""
        del self._flights[flight.ref.digest]
        if flight.priority is Priority.FILL:
            plain = None  # nobody reads it; the window of the fill would keep it in memory
        elif plain is not None:
            self._memory.put(flight.ref.digest, plain)
        flight.finish(plain, failure)

    def _leave(self, joined: Sequence[tuple[int, Flight]]) -> None:
        for _, flight in joined:
            flight.waiters -= 1
        for _, flight in joined:
            if not flight.waiters and not flight.done:
                self._fetcher.abandon(flight)

    def _raise_failures(self, flights: Sequence[Flight], waited_s: float) -> None:
        """Raise for the first flight that brought nothing."""
        failed = next((flight for flight in flights if flight.plain is None), None)
        if failed is None:
            return
        self._counters.failed_reads += 1
        if failed.failure is None:
            self._patience.note_timeout(waited_s)
            error: CafsError = DeadlineError(explain_lateness(failed, waited_s))
        else:
            # A fresh one for each reader: a shared exception would gather everybody's traceback.
            error = type(failed.failure)(str(failed.failure))
        if not failed.recorded:
            failed.recorded = True
            self._journal.record(failed, at=time.time(), waited_s=waited_s, reason=str(error))
        raise error
