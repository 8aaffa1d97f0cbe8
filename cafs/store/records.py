"""Records of the chunk store, byte by byte, and what a chunk costs in it. Pure; see docs/chunk-store.md.

Integers inside values are little-endian; integers inside keys are big-endian, so that LMDB's order of
keys is their order.
"""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass, replace

from cafs.core.chunk import MAX_CHUNK_BYTES
from cafs.core.s3fifo import Queue
from cafs.errors import IntegrityError

FORMAT = 1
"""Raised when a record changes; a store of another format is set aside (it is a cache)."""

PAGE_BYTES = 4096
SEGMENT_BYTES = 32 * PAGE_BYTES - 16
"""Frames are cut into segments of 32 pages at most (LMDB heads each run of pages with 16 bytes). LMDB needs
a run of free pages that lie together for each value: with short runs, a store that is deleted and refilled
in varied sizes keeps finding them."""
INLINE_BYTES = 2000
"""A smaller value lies inside a leaf page of LMDB's tree and needs no run of its own."""
ROW_BYTES = 256
"""What the three tables' rows of one chunk take, at the usual fill of LMDB's leaf pages."""

_HEADER = struct.Struct("<QQIIBBBx")
_STATE = struct.Struct("<IIQQ12Q")


@dataclass(frozen=True, slots=True)
class Header:
    """Table ``chunks``: digest (32 bytes) -> this, 28 bytes."""

    frame_id: int
    """u64; key of the frame's segments. Meaningless for a ghost."""
    position: int
    """u64; place in its queue."""
    plain_bytes: int
    """u32"""
    frame_bytes: int
    """u32"""
    codec: int
    """u8"""
    queue: Queue
    """u8"""
    frequency: int
    """u8; reads since it was last judged, 3 at most."""

    def encode(self) -> bytes:
        return _HEADER.pack(
            self.frame_id,
            self.position,
            self.plain_bytes,
            self.frame_bytes,
            self.codec,
            self.queue,
            self.frequency,
        )

    @classmethod
    def decode(cls, row: bytes | memoryview) -> Header:
        """Read a row back.

        Raises:
            IntegrityError: it is none.
        """
        try:
            frame_id, position, plain, frame, codec, queue, frequency = _HEADER.unpack(row)
            # Twice the largest chunk bounds what a rotten row can make us read.
            if frame > 2 * MAX_CHUNK_BYTES or plain > MAX_CHUNK_BYTES:
                raise IntegrityError("the store's row of a chunk claims an impossible size")
            return cls(frame_id, position, plain, frame, codec, Queue(queue), frequency)
        except (struct.error, ValueError) as e:
            raise IntegrityError(f"the store's row of a chunk is damaged: {e}") from e

    def moved(self, queue: Queue, position: int, frequency: int = 0) -> Header:
        return replace(self, queue=queue, position=position, frequency=frequency)

    @property
    def cost_bytes(self) -> int:
        return cost_bytes(self.frame_bytes)


@dataclass(slots=True)
class State:
    """Table ``state``, key ``state``: the store's counters, changed in the same transaction as the rows."""

    format: int = FORMAT
    """u32"""
    next_set: int = 1
    """u32; next number of a pin set."""
    quota_bytes: int = 0
    """u64, as all that follow; given by who opened the store last."""
    next_id: int = 1
    """Next frame id and queue position."""
    small_bytes: int = 0
    main_bytes: int = 0
    pinned_bytes: int = 0
    small_chunks: int = 0
    main_chunks: int = 0
    pinned_chunks: int = 0
    ghosts: int = 0
    hits: int = 0
    misses: int = 0
    stored: int = 0
    evicted: int = 0
    rotten: int = 0

    def encode(self) -> bytes:
        return _STATE.pack(*astuple(self))

    @classmethod
    def decode(cls, row: bytes | memoryview | None) -> State:
        """Read the counters; a store without any is new.

        Raises:
            IntegrityError: the row is damaged, or of another format.
        """
        if row is None:
            return cls()
        try:
            state = cls(*_STATE.unpack(row))
        except struct.error as e:
            raise IntegrityError(f"the store's counters are damaged: {e}") from e
        if state.format != FORMAT:
            raise IntegrityError(f"the store has format {state.format}, this program writes {FORMAT}")
        return state

    @property
    def used_bytes(self) -> int:
        return self.small_bytes + self.main_bytes + self.pinned_bytes

    @property
    def chunks(self) -> int:
        return self.small_chunks + self.main_chunks + self.pinned_chunks

    def without_chunks(self) -> State:
        """The counters of a store that was emptied."""
        return State(
            quota_bytes=self.quota_bytes,
            hits=self.hits,
            misses=self.misses,
            stored=self.stored,
            evicted=self.evicted,
            rotten=self.rotten,
        )

    def count(self, queue: Queue, chunks: int, size: int) -> None:
        """Add (or take, when negative) chunks of ``size`` bytes altogether to a queue.

        Never below zero: a damaged row may have been counted with another size. ``recount`` mends that.
        """
        if queue == Queue.SMALL:
            self.small_chunks = max(0, self.small_chunks + chunks)
            self.small_bytes = max(0, self.small_bytes + size)
        elif queue == Queue.MAIN:
            self.main_chunks = max(0, self.main_chunks + chunks)
            self.main_bytes = max(0, self.main_bytes + size)
        elif queue == Queue.PINNED:
            self.pinned_chunks = max(0, self.pinned_chunks + chunks)
            self.pinned_bytes = max(0, self.pinned_bytes + size)
        else:
            self.ghosts = max(0, self.ghosts + chunks)


def cost_bytes(frame_bytes: int) -> int:
    """What a chunk takes of the quota: whole pages, as LMDB stores it, and its rows."""
    whole, rest = divmod(frame_bytes, SEGMENT_BYTES)
    cost = ROW_BYTES + whole * (SEGMENT_BYTES + 16)
    if rest > INLINE_BYTES:
        return cost + (rest + 16 + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
    return cost + rest


def queue_key(queue: int, position: int) -> bytes:
    """Table ``queue``: this -> digest."""
    return bytes((queue,)) + position.to_bytes(8, "big")


def segment_key(frame_id: int, segment: int) -> bytes:
    """Table ``frames``: this -> up to ``SEGMENT_BYTES`` of the frame."""
    return frame_id.to_bytes(8, "big") + segment.to_bytes(2, "big")


def segment_count(frame_bytes: int) -> int:
    return max(1, -(-frame_bytes // SEGMENT_BYTES))
