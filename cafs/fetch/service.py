"""Chunks for all layers that are mounted: memory, store, sources.

``ChunkService`` is used as an async context manager; everything it starts runs in its own nursery and ends
with it. One per process, used from one trio thread. How a read goes through it: ``docs/read-path.md``.

Cancellation: a reader that is cancelled leaves its flights; each goes on while anybody else waits for it.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import trio

from cafs.core.chunk import ChunkRef
from cafs.core.digest import parse_digest
from cafs.core.patience import Patience
from cafs.core.profile import Profile
from cafs.core.readplan import plan_slices
from cafs.core.source import BlobSource
from cafs.errors import CafsError, DeadlineError
from cafs.fetch.fetcher import Fetcher, explain_lateness
from cafs.fetch.flights import Flight, Origin
from cafs.fetch.journal import Journal
from cafs.fetch.limits import FetchLimits, Priority
from cafs.fetch.local_peer import LocalPeer
from cafs.fetch.peer_first import with_peer
from cafs.fetch.plain_cache import Plain, PlainCache
from cafs.fetch.prefetch import Prefetch, Prefetcher
from cafs.fetch.programs import Programs
from cafs.fetch.reader import LayerFile, LayerReader
from cafs.fetch.record import Recorder
from cafs.fetch.riders import MOST_ROWS, AheadAccount, find_riders
from cafs.fetch.stats import Counters, LayerStats, ServiceStats
from cafs.fetch.store_reader import StoreReader
from cafs.fetch.under_way import UnderWay
from cafs.fetch.verify import FrameStore
from cafs.fetch.write_behind import StoreWriter

log = logging.getLogger(__name__)

DRAIN_S = 5.0
"""How long closing waits for fetched chunks to be stored."""
UNREAD_S = 10.0
"""What was fetched ahead and not read for one to two of these loses its place in memory."""
PRESENCE_ROWS = 1024
"""Asked of the store at once."""


class ChunkService:
    """Brings chunks to the readers of any number of layers.

    Args:
        store: Where chunks are kept on this machine; None: nowhere.
        limits: Bounds of memory, concurrency and time.
        journal: Where failures are written down; None: only in the log.
        peer: This node's peer, asked before registries; None: nobody is.
    """

    def __init__(
        self,
        store: FrameStore | None,
        limits: FetchLimits,
        journal: Journal | None = None,
        peer: LocalPeer | None = None,
    ) -> None:
        self._peer = peer
        self._kept = StoreReader(store)
        self._limits = limits
        self._journal = journal or Journal(None)
        self._memory = PlainCache(limits.memory_cache_bytes, limits.ahead_cache_bytes)
        self._writer = StoreWriter(store, limits.write_behind_bytes)
        self._counters = Counters()
        self._flights = UnderWay()
        self._layers: list[LayerReader] = []
        self._tasks = AsyncExitStack()
        self.prefetcher = Prefetcher(self, limits)
        self.programs = Programs(self)
        self._ahead = AheadAccount()
        self._recorder: Recorder | None = None
        self.on_first_read: Callable[[LayerReader, ChunkRef], None] | None = None
        """Called when a reader reads a chunk of a layer for the first time."""
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
        self._nursery.start_soon(self.programs.run)
        self._nursery.start_soon(self._let_go_unread)
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
        if self._peer is not None:
            self._peer.close()

    def add_layer(
        self, index: LayerFile, sources: Sequence[BlobSource], name: str, about: str = ""
    ) -> LayerReader:
        """A reader of this layer, whose blobs are asked of ``sources`` in that order.

        Args:
            index: The layer.
            sources: Of its blobs.
            name: Its diffID.
            about: What else log lines say of it.
        """
        readahead_bytes = self._limits.readahead_bytes
        ways = [self.way_to(source) for source in sources]
        layer = LayerReader(self, index, ways, name=name, about=about, readahead_bytes=readahead_bytes)
        self._layers.append(layer)
        return layer

    def way_to(self, source: BlobSource) -> BlobSource:
        """How a source is asked: by way of this node's peer where that can help."""
        return source if self._peer is None else with_peer(self._peer, source)

    def remove_layer(self, layer: LayerReader) -> None:
        """Nobody will read it any more. What is under way for it still arrives, for others or the store."""
        self._layers.remove(layer)
        self._ahead.forget(layer)
        self.programs.forget(layer)
        if not any(other.name == layer.name for other in self._layers):
            self._counters.by_layer.pop(layer.name, None)

    def start_prefetch(
        self, mode: Prefetch, profile: Profile | None = None, layers: Sequence[LayerReader] | None = None
    ) -> trio.CancelScope:
        """Begin to prefetch an image.

        Args:
            mode: What.
            profile: Of the image.
            layers: The image's; None: all that were added so far.

        Returns:
            Cancelling it ends the prefetching.
        """
        scope = trio.CancelScope()
        image = tuple(self._layers if layers is None else layers)
        self._nursery.start_soon(self._prefetch, scope, mode, image, profile)
        return scope

    async def _prefetch(
        self,
        scope: trio.CancelScope,
        mode: Prefetch,
        layers: Sequence[LayerReader],
        profile: Profile | None,
    ) -> None:
        with scope:
            await self.prefetcher.run(mode, layers, profile)

    def start_recording(self, path: Path) -> None:
        """Keep the order of first accesses to the layers added so far in this file.

        Raises:
            UsageError: the file is there and is no profile of these layers.
            StorageError: it cannot be read or written.
        """
        self._recorder = Recorder(path, [parse_digest(layer.name) for layer in self._layers])
        self._nursery.start_soon(self._recorder.run)

    @property
    def counters(self) -> Counters:
        """The running counts: readers add to them, metrics copy their histograms."""
        return self._counters

    def stats(self) -> ServiceStats:
        """The counters as they are now."""
        return self._counters.snapshot(
            under_way=len(self._flights),
            not_stored=self._writer.not_stored,
            touched_frame_bytes=sum(layer.touched_frame_bytes for layer in self._layers),
            touched_bytes=sum(layer.touched_bytes for layer in self._layers),
            total_bytes=sum(layer.data_bytes for layer in self._layers),
        )

    def layer_stats(self, layer: LayerReader) -> LayerStats:
        """The counters of one layer as they are now."""
        return LayerStats(
            touched_bytes=layer.touched_bytes,
            touched_frame_bytes=layer.touched_frame_bytes,
            fetched_frame_bytes=self._counters.by_layer.get(layer.name, 0),
            under_way=sum(flight.origin.layer == layer.name for flight in self._flights),
        )

    async def peek(self, layer: LayerReader, offset: int, size: int, deadline: float) -> bytes:
        """Bytes of the image for ourselves: nobody is counted as having read them. Raises as ``chunks``."""
        slices = plan_slices(layer.table, offset, size)
        plains = await self.chunks(layer, [part.row for part in slices], deadline)
        return b"".join(plain[part.begin : part.end] for part, plain in zip(slices, plains, strict=True))

    async def bring_program(self, layer: LayerReader, rows: Sequence[int]) -> None:
        """Have these rows fetched ahead of their readers, as far as the account allows."""
        room = self._ahead.program_allowance_bytes(self._distance(layer))
        wanted = []
        for row in rows:
            ref = layer.ref(row)
            if not layer.touched[row] and not layer.ahead[row] and not layer.local[row]:
                room -= ref.frame_bytes
                wanted.append(row)
            if room < 0:
                break
        await self.prefetcher.bring(layer, wanted, Priority.READAHEAD)

    async def bytes_here(self, layer: LayerReader) -> int:
        """Plain bytes of the layer's chunks that are in the store or in memory. Looks at every row."""
        found = 0
        for begin in range(0, len(layer.table), PRESENCE_ROWS):
            rows = range(begin, min(begin + PRESENCE_ROWS, len(layer.table)))
            refs = [layer.table.row(row) for row in rows]
            kept = await self._kept.has([ref.digest for ref in refs])
            found += sum(
                ref.plain_bytes
                for ref, here in zip(refs, kept, strict=True)
                if here or self.cached(ref.digest) is not None
            )
        return found

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
        self.programs.note_touched(layer, row)
        if self._recorder is not None:
            self._recorder.note(layer.name, ref.digest)
        if self.on_first_read is not None:
            self.on_first_read(layer, ref)
        self.prefetcher.note_touched(layer, ref.plain_bytes)

    def is_near(self, digest: bytes) -> bool:
        """In memory, or on its way."""
        return digest in self._memory or digest in self._flights or self._writer.get(digest) is not None

    async def kept(self, digests: Sequence[bytes]) -> Sequence[bool]:
        """Which of these the store holds."""
        return await self._kept.has(digests)

    async def load(self, layer: LayerReader, rows: Sequence[int]) -> None:
        """Bring what the store holds of these rows into memory before anybody asks, and fetch the rest."""
        wanted = [
            (row, ref) for row, ref in ((row, layer.ref(row)) for row in rows) if not self.is_near(ref.digest)
        ]
        flights = self._new_flights([(layer, ref) for _, ref in wanted], Priority.READAHEAD)
        for flight in flights:
            flight.waiters += 1
        missing = flights
        try:
            missing = await self._take_kept(flights)
        finally:
            if missing:
                lacking = {flight.ref.digest for flight in missing}
                for row, ref in wanted:
                    if ref.digest in lacking:
                        self.note_ahead(layer, row, ref)
                self._fetcher.submit(missing)

    def launch(self, wanted: Sequence[tuple[LayerReader, ChunkRef]], priority: Priority) -> list[Flight]:
        """Fetch for prefetching what is not near yet; the flights count prefetching as their waiter.

        A fill also joins flights of readers: it passes each chunk once, and a reader may leave its own.
        """
        flights = self._new_flights(wanted, priority)
        joined: list[Flight] = []
        if priority is Priority.FILL:
            fresh = {flight.ref.digest for flight in flights}
            others = {ref.digest for _, ref in wanted} - fresh
            joined = [flight for digest in others for flight in self._flights.of(digest)[:1]]
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
                flight = Flight(ref, layer.origin(ref.blob), priority)
                self._flights.add(flight)
                flights.append(flight)
        return flights

    async def chunks(self, layer: LayerReader, rows: Sequence[int], deadline: float | None) -> list[Plain]:
        """The plain chunks of these rows; see ``LayerReader.read`` for what it raises."""
        began = trio.current_time()
        wanted = [(ref, layer.origin(ref.blob)) for ref in map(layer.ref, rows)]
        found = [self.cached(ref.digest) for ref, _ in wanted]
        joined, fresh = self._join(wanted, found)
        self._counters.awaited_chunks += len(joined)
        try:
            if fresh:
                await self._look_up(layer, rows[-1], fresh)
            if not all(flight.done for _, flight in joined):
                with trio.move_on_at(began + self._patience.seconds if deadline is None else deadline):
                    for _, flight in joined:
                        await flight.wait()
        finally:
            ended = [flight for _, flight in joined if flight.done]
            late = [flight for _, flight in joined if not flight.done]
            self._leave(joined)
        waited_s = trio.current_time() - began
        await self._raise_failures(ended, waited_s)
        if late:
            await self._raise_lateness(late[0], waited_s)
        for place, flight in joined:
            found[place] = flight.plain
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
            flight = self._flights.find(ref, origin)
            if flight is None:
                flight = Flight(ref, origin, Priority.DEMAND)
                flight.waiters = 1
                self._flights.add(flight)
                fresh.append(flight)
            else:
                flight.waiters += 1  # before it is hastened: one that nobody waits for would be dropped
                self._fetcher.hasten(flight, Priority.DEMAND)
            joined.append((place, flight))
        return joined, fresh

    async def _look_up(self, layer: LayerReader, last_row: int, fresh: Sequence[Flight]) -> None:
        """Ask the store for new flights, and have fetched what it does not hold, and riders with it."""
        missing = list(fresh)
        try:
            missing = await self._take_kept(fresh)
            if missing and missing[-1].ref.digest == layer.ref(last_row).digest:
                missing += await self._board(layer, last_row)
        finally:
            # Also when this reader was cancelled: others may have joined the flights meanwhile.
            if missing:
                self._fetcher.submit(missing)

    async def _take_kept(self, flights: Sequence[Flight]) -> list[Flight]:
        """End the flights whose chunks the store holds; returns the others."""
        if not flights:
            return []
        kept = await self._kept.get([(flight.ref.digest, flight.ref.plain_bytes) for flight in flights])
        missing = []
        for flight, plain in zip(flights, kept, strict=True):
            if plain is None:
                missing.append(flight)
                continue
            self._counters.store_hits += 1
            self._counters.store_bytes += len(plain)
            self._finished(flight, plain, None)
        return missing

    async def _board(self, layer: LayerReader, last_row: int) -> list[Flight]:
        """Flights of riders behind this row, as far as the store does not hold them."""
        distance = self._distance(layer)
        riders = find_riders(
            layer,
            last_row,
            most=int(MOST_ROWS * distance),
            room_bytes=min(self._limits.most_rider_bytes(distance), self._ahead.allowance_bytes(distance)),
            is_near=self.is_near,
        )
        if not riders:
            return []
        kept = await self._kept.has([ref.digest for _, ref in riders])
        riders = [rider for rider, here in zip(riders, kept, strict=True) if not here]
        flights = self._new_flights([(layer, ref) for _, ref in riders], Priority.READAHEAD)
        for flight in flights:
            flight.rides = True
        for row, ref in riders:
            self._ahead.note_ahead(layer, row, ref, rides=True)
        return flights

    def release_pages(self) -> None:
        """Let go of mapped pages, when there are many. In a worker thread."""
        self._kept.release_pages()

    def _distance(self, layer: LayerReader) -> float:
        """Of the source that is asked first; 1 where there is none."""
        return self._fetcher.distance(layer.sources[0]) if layer.sources else 1.0

    def _finished(self, flight: Flight, plain: Plain | None, failure: CafsError | None) -> None:
        """A flight has ended, well or not."""
        self._flights.remove(flight)
        if flight.priority is Priority.FILL:
            plain = None  # nobody reads it; the window of the fill would keep it in memory
        elif plain is not None and flight.priority is Priority.DEMAND:
            self._memory.put(flight.ref.digest, plain)
        elif plain is not None:
            self._memory.put_ahead(flight.ref.digest, plain)
        flight.finish(plain, failure)

    async def _let_go_unread(self) -> None:
        while True:
            await trio.sleep(UNREAD_S)
            self._memory.let_go_unread()

    def _leave(self, joined: Sequence[tuple[int, Flight]]) -> None:
        for _, flight in joined:
            flight.waiters -= 1
        for _, flight in joined:
            if not flight.waiters and not flight.done:
                self._fetcher.abandon(flight)

    async def _raise_failures(self, flights: Sequence[Flight], waited_s: float) -> None:
        """Raise for the first flight that failed."""
        for flight in flights:
            if flight.failure is not None:
                # A fresh one for each reader: a shared exception would gather everybody's traceback.
                await self._raise(type(flight.failure)(str(flight.failure)), flight, waited_s)

    async def _raise_lateness(self, late: Flight, waited_s: float) -> NoReturn:
        """Raise for a flight that the reader waited for in vain."""
        self._patience.note_timeout(waited_s)
        await self._raise(DeadlineError(explain_lateness(late, waited_s)), late, waited_s)

    async def _raise(self, error: CafsError, failed: Flight, waited_s: float) -> NoReturn:
        self._counters.failed_reads += 1
        if not failed.recorded:
            failed.recorded = True
            await self._journal.record(failed, at=time.time(), waited_s=waited_s, reason=str(error))
        raise error
