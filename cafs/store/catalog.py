"""The rows of the chunk store inside one write transaction: insert, move, evict, count.

Every change of a row changes the counters in the same transaction. Used by ``ChunkStore``; knows LMDB only
as tables and transactions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from cafs.core.chunk import Chunk
from cafs.core.s3fifo import Entry, Fill, Move, Queue, arrival_queue, plan_eviction, raise_frequency
from cafs.errors import IntegrityError
from cafs.store.access import Accesses
from cafs.store.environment import Txn
from cafs.store.records import (
    SEGMENT_BYTES,
    Header,
    State,
    cost_bytes,
    queue_key,
    segment_count,
    segment_key,
)
from cafs.store.tables import STATE_KEY, Tables

MIN_GHOSTS = 256


class Catalog:
    """Rows and counters, within one write transaction; ``save`` before it commits."""

    def __init__(self, txn: Txn, tables: Tables) -> None:
        """Raises ``IntegrityError`` when the counters are damaged."""
        self.txn = txn
        self.tables = tables
        self.state = State.decode(txn.get(STATE_KEY, db=tables.state))

    def save(self) -> None:
        self.txn.put(STATE_KEY, self.state.encode(), db=self.tables.state)

    def find(self, digest: bytes) -> Header | None:
        """The row of a chunk or ghost; a damaged row is deleted and counts as absent."""
        row = self.txn.get(digest, db=self.tables.chunks)
        if row is None:
            return None
        try:
            return Header.decode(row)
        except IntegrityError:
            self.txn.delete(digest, db=self.tables.chunks)
            return None

    def holds(self, digest: bytes) -> bool:
        """Is the chunk stored?"""
        header = self.find(digest)
        return header is not None and header.queue != Queue.GHOST

    def insert(self, chunk: Chunk) -> None:
        """Store a chunk that is not stored; the caller made room."""
        pinned = self.tables.is_pinned(self.txn, chunk.digest)
        old = self.find(chunk.digest)
        if old is not None:
            self._take_from_queue(old)
        queue = Queue.PINNED if pinned else arrival_queue(old is not None)
        frame_id = self._next_id()
        frame = memoryview(chunk.frame)
        for number in range(segment_count(len(frame))):
            start = number * SEGMENT_BYTES
            part = frame[start : start + SEGMENT_BYTES]
            self.txn.put(segment_key(frame_id, number), part, append=True, db=self.tables.frames)
        header = Header(frame_id, 0, len(chunk.plain), len(frame), chunk.codec, queue, 0)
        self._append(chunk.digest, header, queue, 0)
        self.state.stored += 1

    def move(self, digest: bytes, header: Header, queue: Queue, frequency: int = 0) -> None:
        """To another queue's tail (or the same one's)."""
        self._take_from_queue(header)
        if queue == Queue.GHOST:
            self._delete_frame(header)
        self._append(digest, header, queue, frequency)

    def remove(self, digest: bytes, header: Header) -> None:
        """Forget a chunk or ghost altogether."""
        self._take_from_queue(header)
        if header.queue != Queue.GHOST:
            self._delete_frame(header)
        self.txn.delete(digest, db=self.tables.chunks)

    def drop_rotten(self, digest: bytes) -> None:
        """Forget a chunk whose bytes are wrong."""
        header = self.find(digest)
        if header is not None and header.queue != Queue.GHOST:
            self.remove(digest, header)
        self.state.rotten += 1

    def forget(self, key: bytes, digest: bytes) -> None:
        """Remove a queue's row and the chunk or ghost behind it."""
        header = self.find(digest)
        if header is not None and queue_key(header.queue, header.position) == key:
            self.remove(digest, header)
        self.txn.delete(key, db=self.tables.queue)

    def apply_accesses(self, notes: Accesses) -> None:
        """Write down what readers did."""
        self.state.hits += notes.hits
        self.state.misses += notes.misses
        for digest, reads in notes.reads.items():
            header = self.find(digest)
            if header is None or header.queue == Queue.GHOST:
                continue
            frequency = raise_frequency(header.frequency, reads)
            if frequency != header.frequency:
                row = replace(header, frequency=frequency).encode()
                self.txn.put(digest, row, db=self.tables.chunks)

    def evict(self, want_bytes: int, budget_bytes: int) -> int:
        """Free at least so many bytes as far as unpinned chunks allow; returns how many it freed."""
        before = self.state.used_bytes
        fill = Fill(self.state.small_bytes, self.state.main_bytes, budget_bytes)
        # The plan is complete before a row changes, so that the walks over the queues see them as they were.
        orphans: list[bytes] = []
        small, main = self._entries(Queue.SMALL, orphans), self._entries(Queue.MAIN, orphans)
        for move in plan_eviction(small, main, fill, want_bytes):
            self._carry_out(move)
        for key in orphans:
            self.txn.delete(key, db=self.tables.queue)
        self._trim_ghosts()
        return before - self.state.used_bytes

    def _carry_out(self, move: Move) -> None:
        digest = move.entry.digest
        header = self.find(digest)
        if header is None:
            return
        if move.to is None:
            self.remove(digest, header)
        else:
            self.move(digest, header, move.to, move.entry.frequency)
        if move.to in (None, Queue.GHOST):
            self.state.evicted += 1

    def _trim_ghosts(self) -> None:
        excess = self.state.ghosts - max(self.state.chunks, MIN_GHOSTS)
        if excess > 0:
            for key, digest in list(islice(self.queued(Queue.GHOST), excess)):
                self.forget(key, digest)

    def _entries(self, queue: Queue, orphans: list[bytes]) -> Iterator[Entry]:
        """Queue rows that no chunk stands behind (after a damaged row was dropped) go to ``orphans``."""
        for key, digest in self.queued(queue):
            header = self.find(digest)
            if header is None or queue_key(header.queue, header.position) != key:
                orphans.append(key)
            else:
                yield Entry(digest, header.cost_bytes, header.frequency)

    def queued(self, queue: Queue) -> Iterator[tuple[bytes, bytes]]:
        """A queue's (key, digest) from its head; the queue may not be changed while this is being read."""
        cursor = self.txn.cursor(self.tables.queue)
        ok = cursor.set_range(queue_key(queue, 0))
        while ok and cursor.key()[0] == queue:
            yield bytes(cursor.key()), bytes(cursor.value())
            ok = cursor.next()

    def _append(self, digest: bytes, header: Header, queue: Queue, frequency: int) -> None:
        header = header.moved(queue, self._next_id(), frequency)
        self.txn.put(queue_key(queue, header.position), digest, db=self.tables.queue)
        self.txn.put(digest, header.encode(), db=self.tables.chunks)
        self.state.count(queue, 1, header.cost_bytes)

    def _take_from_queue(self, header: Header) -> None:
        self.txn.delete(queue_key(header.queue, header.position), db=self.tables.queue)
        self.state.count(header.queue, -1, -header.cost_bytes)

    def _delete_frame(self, header: Header) -> None:
        for number in range(segment_count(header.frame_bytes)):
            self.txn.delete(segment_key(header.frame_id, number), db=self.tables.frames)

    def _next_id(self) -> int:
        self.state.next_id += 1
        return self.state.next_id


def total_cost(chunks: list[Chunk]) -> int:
    """What these chunks will take of the quota."""
    return sum(cost_bytes(len(chunk.frame)) for chunk in chunks)
