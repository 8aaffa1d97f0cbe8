"""The chunk store: verified chunks on the local disk, shared by every image and process of the node.

Used by the fetch service (in worker threads, in batches) and the command line. Synchronous and thread-safe;
several processes may read and write one store. A chunk is verified when it is written (only ``Chunk``
comes in) and again when it is read. docs/chunk-store.md describes layout, transactions and crashes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from cafs.core.chunk import Chunk, ChunkRef, Codec, FrameDecoder
from cafs.core.progress import Progress
from cafs.core.s3fifo import Queue
from cafs.errors import IntegrityError, StorageError, UsageError
from cafs.store import upkeep
from cafs.store.catalog import Catalog, total_cost
from cafs.store.environment import NoRoomError, Txn
from cafs.store.pins import Pins, pin_sets
from cafs.store.records import Header
from cafs.store.session import Session, excess_bytes, unpinned_budget
from cafs.store.upkeep import Cleared, Collected, Verified

_log = logging.getLogger(__name__)
Wanted = TypeVar("Wanted")

MIN_QUOTA_BYTES = 16 << 20
MAX_BATCH_BYTES = 8 << 20
"""Written in one transaction: the commit's sync is paid once for so much, and others wait no longer."""
READ_BATCH = 128
"""Chunks read in one transaction."""
PIN_BATCH = 4096
_ROOM_ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Sizes in bytes; counters since the store was made, over all processes."""

    quota_bytes: int
    used_bytes: int
    """What the chunks take, in whole pages; what of it is pinned."""
    pinned_bytes: int
    file_bytes: int
    chunks: int
    pinned_chunks: int
    hits: int
    misses: int
    stored: int
    evicted: int
    rotten: int
    pin_sets: dict[str, int]
    """Chunks in each pin set, stored or not."""

    @property
    def hit_ratio(self) -> float | None:
        """Of the chunks asked for; ``None`` before any was."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


class ChunkStore:
    """An open store; a context manager, or ``close`` it."""

    def __init__(self, session: Session) -> None:
        """Use ``ChunkStore.open``."""
        self._session = session
        self._warned: set[bytes] = set()
        self._decoders: list[FrameDecoder] = []
        """Not in use at the moment; each is for one thread at a time."""

    @classmethod
    def open(cls, directory: Path, quota_bytes: int, readonly: bool = False) -> Self:
        """Open the store in ``directory``; it is made when missing.

        Args:
            directory: A directory of its own, on a local filesystem; made private (0700).
            quota_bytes: What its file may take on the disk; replaces the quota it had before. A smaller
                one takes effect with the next ``put`` or ``gc``.
            readonly: Never writes, not even which chunks were read.

        Raises:
            UsageError: the quota is below 16 MiB.
            NotFoundError: ``readonly`` and there is no store.
            StateError: this process has it open already.
            StorageError: the disk is full or unreadable, or a network filesystem.
        """
        _check_quota(quota_bytes)
        return cls(Session(directory, quota_bytes, readonly=readonly))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write down what is only in memory and close; waits for running calls of other threads."""
        self._session.close()

    # Reading

    def get(self, wanted: Sequence[tuple[bytes, int]]) -> list[bytes | None]:
        """Plain bytes of chunks, verified.

        Args:
            wanted: (digest, plain bytes) of each.

        Returns:
            For each its plain bytes; ``None`` where the store has none, or where what it had was rotten
            (then it is dropped, with a warning) or is not of the wanted size.

        Raises:
            StorageError: the store cannot be read.
            StateError: called in a forked child.
        """
        return self._gather(wanted, self._read)

    def frames(self, wanted: Sequence[ChunkRef]) -> list[bytes | None]:
        """Frames of chunks, for other hosts; verified as ``get`` does, which it otherwise is like.

        Returns:
            For each its frame; ``None`` also where the store has the chunk as another frame.
        """
        return self._gather([(ref.digest, ref) for ref in wanted], self._read_frame)

    def _gather(
        self,
        wanted: Sequence[tuple[bytes, Wanted]],
        read_one: Callable[[Txn, FrameDecoder, bytes, Wanted], bytes | None],
    ) -> list[bytes | None]:
        found: list[bytes | None] = []
        read: list[bytes] = []
        rotten: list[tuple[bytes, str]] = []
        decoder = self._free_decoder()
        for start in range(0, len(wanted), READ_BATCH):
            with self._session.read() as txn:
                for digest, what in wanted[start : start + READ_BATCH]:
                    try:
                        found.append(read_one(txn, decoder, digest, what))
                    except IntegrityError as e:
                        found.append(None)
                        rotten.append((digest, str(e)))
                    else:
                        if found[-1] is not None:
                            read.append(digest)
        self._decoders.append(decoder)
        if rotten:
            self._drop_rotten(rotten)
        if not self._session.readonly:
            self._session.accesses.note(read, len(read), len(wanted) - len(read))
        return found

    def _free_decoder(self) -> FrameDecoder:
        try:
            return self._decoders.pop()
        except IndexError:  # not asked for before: another thread could take the last one in between
            return FrameDecoder()

    def _read(self, txn: Txn, decoder: FrameDecoder, digest: bytes, plain_bytes: int) -> bytes | None:
        header = self._find(txn, digest, plain_bytes)
        if header is None:
            return None
        frame = self._frame(txn, header, digest)
        if header.codec == Codec.RAW:
            frame = bytes(frame)  # the plain bytes themselves: verified and returned from this copy
        # A zstd frame is decoded from the map; the plain bytes are new, and the frame goes no further.
        return bytes(decoder.decode(digest, header.codec, frame, plain_bytes).plain)

    def _read_frame(self, txn: Txn, decoder: FrameDecoder, digest: bytes, ref: ChunkRef) -> bytes | None:
        header = self._find(txn, digest, ref.plain_bytes)
        if header is None or (header.codec, header.frame_bytes) != (ref.codec, ref.frame_bytes):
            return None
        frame = bytes(self._frame(txn, header, digest))
        decoder.decode(digest, header.codec, frame, ref.plain_bytes)
        return frame

    def _find(self, txn: Txn, digest: bytes, plain_bytes: int) -> Header | None:
        row = txn.get(digest, db=self._session.tables.chunks)
        if row is None:
            return None
        header = Header.decode(row)
        return None if header.queue == Queue.GHOST or header.plain_bytes != plain_bytes else header

    def _frame(self, txn: Txn, header: Header, digest: bytes) -> bytes | memoryview:
        frame = self._session.tables.frame(txn, header)
        if frame is None or len(frame) != header.frame_bytes:
            raise IntegrityError(f"chunk {digest.hex()} has lost bytes of its frame")
        return frame

    def has(self, digests: Sequence[bytes]) -> list[bool]:
        """Which chunks are stored; not verified, and not counted as a read.

        Raises:
            StorageError: the store cannot be read.
        """
        with self._session.read() as txn:
            return [self._is_stored(txn, digest) for digest in digests]

    def release_pages(self) -> None:
        """Let go of the resident pages of the map; nobody who reads notices, but for page faults."""
        self._session.release_pages()

    def _is_stored(self, txn: Txn, digest: bytes) -> bool:
        row = txn.get(digest, db=self._session.tables.chunks)
        try:
            return row is not None and Header.decode(row).queue != Queue.GHOST
        except IntegrityError:
            return False

    # Writing

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Keep verified chunks; evicts others to stay within the quota. What is stored already is skipped.

        Durable as a batch of some MiB; a crash leaves whole batches or nothing of them.

        Raises:
            StorageError: disk full, read-only, or no room beside what is pinned. Batches before are kept,
                nothing of this one is; the store stays usable.
        """
        self._session.shrink()
        for batch in _batches(chunks, min(MAX_BATCH_BYTES, self._session.state().quota_bytes // 32)):
            self._put_batch(batch)

    def _put_batch(self, batch: list[Chunk]) -> None:
        for attempt in range(_ROOM_ATTEMPTS):
            try:
                with self._session.catalog() as catalog:
                    self._insert(catalog, batch)
            except NoRoomError:
                self._session.make_room(total_cost(batch) << attempt)
            else:
                return
        raise StorageError(
            f"chunk store {self._session.directory}: no room (its free pages lie scattered; run gc)"
        )

    def _insert(self, catalog: Catalog, batch: list[Chunk]) -> None:
        new = [chunk for chunk in batch if not catalog.holds(chunk.digest)]
        want = total_cost(new) + excess_bytes(catalog.state)
        while want > 0:
            freed = catalog.evict(want, unpinned_budget(catalog.state))
            if not freed:
                raise StorageError(f"chunk store {self._session.directory}: full of pinned chunks")
            want -= freed
        for chunk in new:
            catalog.insert(chunk)

    def pin(self, name: str, digests: Sequence[bytes]) -> None:
        """Keep these chunks, stored now or later, from eviction until ``unpin``. Adds to the set ``name``.

        Raises:
            StorageError: it cannot be written; the batches before (of some thousand) are kept.
        """
        for start in range(0, len(digests), PIN_BATCH):
            with self._session.catalog() as catalog:
                Pins(catalog).pin(name, digests[start : start + PIN_BATCH])

    def unpin(self, name: str, digests: Sequence[bytes] | None = None) -> None:
        """Take chunks out of the set ``name``, or (without ``digests``) the whole set away.

        Raises:
            StorageError: it cannot be written.
        """
        if digests is not None:
            for start in range(0, len(digests), PIN_BATCH):
                with self._session.catalog() as catalog:
                    Pins(catalog).unpin(name, digests[start : start + PIN_BATCH])
            return
        upkeep.remove_pin_set(self._session, name)

    def flush(self) -> None:
        """Write down which chunks were read and the counters, for whoever reads much and writes nothing.

        ``put`` and ``close`` do that too. It waits for the disk.

        Raises:
            StorageError: it cannot be written; the notes are kept for the next time.
        """
        if not self._session.readonly:
            self._session.flush()

    def _drop_rotten(self, rotten: Sequence[tuple[bytes, str]]) -> None:
        for digest, why in rotten:
            if digest not in self._warned:
                self._warned.add(digest)
                _log.warning("chunk store %s: %s; dropped", self._session.directory, why)
        if self._session.readonly:
            return
        try:
            with self._session.catalog() as catalog:
                for digest, _ in rotten:
                    catalog.drop_rotten(digest)
        except StorageError as e:
            _log.warning("%s (a rotten chunk stays)", e)

    # About the store

    def stats(self) -> StoreStats:
        """Sizes and counters.

        Raises:
            StorageError: the store cannot be read.
        """
        with self._session.read() as txn:
            sets = pin_sets(txn, self._session.tables)
        state = self._session.state()
        return StoreStats(
            quota_bytes=state.quota_bytes,
            used_bytes=state.used_bytes,
            pinned_bytes=state.pinned_bytes,
            file_bytes=self._session.file_bytes(),
            chunks=state.chunks,
            pinned_chunks=state.pinned_chunks,
            hits=state.hits,
            misses=state.misses,
            stored=state.stored,
            evicted=state.evicted,
            rotten=state.rotten,
            pin_sets=sets,
        )

    def verify(self, progress: Progress) -> Verified:
        """Read and check everything; rotten chunks are dropped. Other writers wait during its first part.

        Raises:
            IntegrityError: the pages of the file are damaged; the next opening starts with an empty store.
            StorageError: the store cannot be read.
        """
        return upkeep.verify(self._session, progress)

    def gc(self) -> Collected:
        """Bring the store down to its quota and give free space back to the disk.

        Raises:
            StorageError: the store cannot be written.
        """
        return upkeep.collect_garbage(self._session)

    def set_quota(self, quota_bytes: int) -> Collected:
        """Replace the quota while the store is in use, and bring it down to that, as ``gc`` does.

        Raises:
            UsageError: it is below 16 MiB.
            StorageError: the store cannot be written; a quota that was written down holds all the same.
        """
        _check_quota(quota_bytes)
        self._session.set_quota(quota_bytes)
        return self.gc()

    def clear(self, pinned: bool = False) -> Cleared:
        """Forget all chunks; pinned ones (and the pin sets) only when asked for.

        Safe while others use the store: what they miss they fetch again.

        Raises:
            StorageError: the store cannot be written.
        """
        return upkeep.clear(self._session, pinned=pinned)


def _check_quota(quota_bytes: int) -> None:
    if quota_bytes < MIN_QUOTA_BYTES:
        raise UsageError(f"a chunk store needs a quota of {MIN_QUOTA_BYTES >> 20} MiB at least")


def _batches(chunks: Sequence[Chunk], limit_bytes: int) -> Iterator[list[Chunk]]:
    batch: dict[bytes, Chunk] = {}
    size = 0
    for chunk in chunks:
        if batch and size + len(chunk.frame) > limit_bytes:
            yield list(batch.values())
            batch, size = {}, 0
        if chunk.digest not in batch:
            batch[chunk.digest] = chunk
            size += len(chunk.frame)
    if batch:
        yield list(batch.values())
