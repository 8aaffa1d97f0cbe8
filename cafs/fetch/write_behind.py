"""Storing chunks behind the readers' backs.

Readers get a fetched chunk as soon as it is verified; it waits here until a worker thread has put it into
the store, and can still be read meanwhile. The queue is bounded in bytes. When it is full, prefetching waits
for room; a reader's chunk is simply not stored: readers never wait for a slow disk.

``StoreWriter.run`` is one task in the service's nursery. When it is cancelled, what it holds is lost, and
only fetched again some day.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from cafs.core.chunk import Chunk
from cafs.errors import StorageError
from cafs.fetch.verify import FrameStore

log = logging.getLogger(__name__)

BATCH_BYTES = 4 << 20
"""Plain bytes put in one go: enough to make LMDB's commit cheap, and few, to free the queue soon."""

FLUSH_EVERY_S = 10.0
"""While nothing is stored, the store is told to write its notes of reads down this often."""


class StoreWriter:
    """A bounded queue in front of ``FrameStore.put``."""

    def __init__(self, store: FrameStore | None, limit_bytes: int) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._waiting: dict[bytes, Chunk] = {}
        self._bytes = 0
        self._changed = trio.Event()
        self.usable = store is not None
        """False once the store has refused to take chunks: the service goes on without storing."""
        self.not_stored = 0

    def get(self, digest: bytes) -> Chunk | None:
        """A chunk that still waits to be stored."""
        return self._waiting.get(digest)

    def offer(self, chunks: Sequence[Chunk]) -> None:
        """Queue chunks; those that find no room are not stored."""
        if not self.usable:
            return
        for chunk in chunks:
            size = len(chunk.plain)
            if self._bytes + size > self._limit_bytes:
                self.not_stored += 1
            elif chunk.digest not in self._waiting:
                self._waiting[chunk.digest] = chunk
                self._bytes += size
        self._wake()

    async def room(self) -> None:
        """Wait until at least half of the queue is free."""
        while self.usable and self._bytes > self._limit_bytes // 2:
            await self._changed.wait()

    async def run(self, limiter: trio.CapacityLimiter) -> None:
        """Put what is queued, batch by batch, until cancelled."""
        while True:
            batch = self._next_batch()
            if not batch:
                with trio.move_on_after(FLUSH_EVERY_S) as idle:
                    await self._changed.wait()
                if idle.cancelled_caught:
                    await trio.to_thread.run_sync(self._flush, limiter=limiter)
                continue
            await trio.to_thread.run_sync(self.put_now, batch, limiter=limiter)
            for chunk in batch:
                del self._waiting[chunk.digest]
                self._bytes -= len(chunk.plain)
            self._wake()

    async def drain(self) -> None:
        """Wait until everything queued is stored, or given up."""
        while self._waiting:
            await self._changed.wait()

    def put_now(self, chunks: Sequence[Chunk]) -> None:
        """Store, in the calling (worker) thread. A failing store is given up with one warning."""
        if self._store is None or not self.usable:
            return
        try:
            self._store.put(chunks)
        except (StorageError, OSError) as e:
            if self.usable:
                self.usable = False
                log.warning("the chunk store takes no more chunks, going on without storing: %s", e)

    def _flush(self) -> None:
        if self._store is None or not self.usable:
            return
        try:
            self._store.flush()
        except (StorageError, OSError) as e:
            log.debug("the chunk store could not write down what was read: %s", e)

    def _next_batch(self) -> list[Chunk]:
        batch: list[Chunk] = []
        size = 0
        for chunk in self._waiting.values():
            batch.append(chunk)
            size += len(chunk.plain)
            if size >= BATCH_BYTES:
                break
        return batch

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
