"""One task on this host's disk: what is known of it, and its pieces, verified when written and when read.

What was just written is read from memory while the task is in use. Disk and hashing happen in worker threads.
Any call may be cancelled: a piece whose writing was cut off is not held. ``TaskStore`` makes and keeps them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, Self, TypeVar, TypeVarTuple

import trio

from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.layout import Bitmap, Layout
from cafs.core.swarm.news import News
from cafs.core.swarm.task import TaskMeta, TaskSpec
from cafs.errors import IntegrityError, NotFoundError, StateError, StorageError
from cafs.p2p.recent_pieces import RecentPieces
from cafs.p2p.task_files import NewPiece, NoSpaceError, Record, TaskFiles, encode_record

_log = logging.getLogger(__name__)
T = TypeVar("T")
Args = TypeVarTuple("Args")

USED_EVERY_S = 60.0
"""That something was used is written so often only: which of two was used later matters at an eviction."""


class Keeper(Protocol):
    """What a task needs of the store that keeps it."""

    recent: RecentPieces

    def note_idle(self) -> None:
        """It may be evicted now."""
        ...

    def note_empty(self, task: TaskId) -> None:
        """Nobody uses it, and none of its pieces is here."""
        ...

    def note_bytes(self, more: int) -> None:
        """It grew, or (less than 0) shrank."""
        ...

    async def make_room(self, want_bytes: int) -> None:
        """Evict others until so much more fits; raises StorageError."""
        ...

    async def evict_one(self) -> bool:
        """Evict another one, if any may go."""
        ...

    async def in_thread(self, call: Callable[[*Args], T], *arguments: *Args) -> T:
        """Run disk work; not cut off when the caller is cancelled."""
        ...


class StoredTask:
    """One task: what is known of it, and its pieces."""

    def __init__(self, store: Keeper, record: Record, files: TaskFiles) -> None:
        self._store = store
        self._files = files
        self._record = record
        self._users = 0
        self._changed = trio.Event()
        self._gone = False
        self._counted = 0
        self._coming = 0
        self.dirty = True
        self._saved_at_s = 0.0

    @property
    def id(self) -> TaskId:
        return self._record.spec.task_id

    @property
    def spec(self) -> TaskSpec:
        return self._record.spec

    @property
    def meta(self) -> TaskMeta | None:
        """None: nothing is known of the content yet."""
        return self._record.meta

    @property
    def layout(self) -> Layout | None:
        return self._record.meta.layout if self._record.meta is not None else None

    @property
    def have(self) -> Bitmap:
        """Pieces that are here; not to be changed by others."""
        return self._record.have

    @property
    def complete(self) -> bool:
        """All pieces are here; whether the whole is right is another question."""
        count = self.layout.count if self.layout is not None else None
        return count is not None and self._record.have.is_full(count)

    @property
    def whole(self) -> bool:
        """Complete, and right as a whole."""
        return self._record.whole

    @property
    def forgotten(self) -> bool:
        """Deleted or evicted; nothing can be read or written any more."""
        return self._gone

    @property
    def in_use(self) -> bool:
        return self._users > 0

    @property
    def used_at_s(self) -> float:
        return self._record.used_at_s

    @property
    def held_bytes(self) -> int:
        """What its pieces take on the disk."""
        layout, have = self.layout, self._record.have
        if layout is None or not have.bits:
            return 0
        last = have.bits.bit_length() - 1
        return (len(have) - 1) * layout.piece_bytes + layout.size(last)

    def digest(self, number: int) -> bytes | None:
        """Of one piece, if it is known."""
        return self._record.digests.get(number)

    def learn_digest(self, number: int, digest: bytes) -> bool:
        """Keep what a piece that is not here must hash to; False when it is known otherwise already."""
        return self._record.digests.setdefault(number, digest) == digest

    def correct_digest(self, number: int, digest: bytes) -> None:
        """Who knows better says what the piece must hash to; if what is here does not, it is dropped."""
        if self._record.digests.get(number) != digest:
            self._record.digests[number] = digest
            self._drop(number)

    def set_meta(self, meta: TaskMeta) -> None:
        """Say what the content is like; a length may become known later.

        Raises:
            StateError: it was said otherwise before.
        """
        known = self._record.meta
        if known is not None and not known.agrees_with(meta):
            raise StateError(f"task {self.id}: the content is not what it was")
        if known is not None and known.layout.content_bytes is not None and meta.layout.content_bytes is None:
            meta = meta.with_length(known.layout.content_bytes)
        self._record.meta = meta
        self._note_change()

    def mark_whole(self) -> None:
        """All is here and right."""
        self._record.whole = True
        self._note_change()

    @contextmanager
    def use(self) -> Iterator[Self]:
        """Keeps it from eviction."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._files.release()
                self._store.note_idle()
                if not (self.have.bits or self._gone):
                    self._store.note_empty(self.id)
                self._store.recent.forget(self.id)
            self._note_use(time.time())

    def _note_use(self, now_s: float) -> None:
        self._record.used_at_s = now_s
        if now_s - self._saved_at_s > USED_EVERY_S:
            self.dirty = True

    async def read_piece(self, number: int) -> bytes | bytearray:
        """The bytes of one piece, verified.

        Raises:
            NotFoundError: it is not here, was found to have rotted (then it is dropped), or its task was
                forgotten while it was read.
            StorageError: the disk is broken.
        """
        layout, digest = self.layout, self.digest(number)
        if self._gone or layout is None or digest is None or number not in self.have:
            raise NotFoundError(f"task {self.id} has no piece {number} here")
        if (recent := self._store.recent.get(self.id, number)) is not None:
            await trio.lowlevel.checkpoint()
            return recent
        offset, size = layout.first_byte(number), layout.size(number)
        with self.use():
            try:
                return await self._store.in_thread(self._files.read, offset, size, digest, number)
            except (IntegrityError, StorageError) as e:
                if self._gone:
                    raise NotFoundError(f"task {self.id} was forgotten meanwhile") from e
                if isinstance(e, StorageError):
                    raise
                self._drop(number)
                _log.warning("%s; it will be fetched again", e)
                raise NotFoundError(f"task {self.id} has no piece {number} here any more") from e

    def _drop(self, number: int) -> None:
        if number in self.have and self.layout is not None:
            self.have.discard(number)
            self._store.recent.drop(self.id, number)
            self._record.whole = False
            self._note_change()

    async def put_pieces(self, pieces: Sequence[NewPiece]) -> list[IntegrityError | None]:
        """Verify pieces and keep those that are right; what is here already is skipped.

        A piece's digest is what it was told to be (``NewPiece.digest``), else what is known of it
        (``learn_digest``), else what it hashes to.

        Returns:
            For each None, or what is wrong with it.

        Raises:
            StorageError: the disk is full, or all that is here is in use.
            StateError: the task was forgotten, or nothing is known of its content.
        """
        layout = self.layout
        if self._gone or layout is None:
            raise StateError(f"task {self.id} is not kept here")
        results: list[IntegrityError | None] = [self._misfit(layout, piece) for piece in pieces]
        new = [
            (place, NewPiece(piece.number, piece.data, piece.digest or self.digest(piece.number)))
            for place, piece in enumerate(pieces)
            if results[place] is None and piece.number not in self.have
        ]
        with self.use():
            await self._store.make_room(sum(len(piece.data) for _, piece in new))
            outcome = await self._write([piece for _, piece in new], layout.piece_bytes)
        if self._gone:
            raise StateError(f"task {self.id} was forgotten")
        for (place, piece), result in zip(new, outcome, strict=True):
            if isinstance(result, IntegrityError):
                results[place] = result
            elif not self._keep(piece.number, result):
                results[place] = IntegrityError(f"piece {piece.number} has another digest by now")
            elif isinstance(piece.data, bytes | bytearray) and self._users:
                self._store.recent.put(self.id, piece.number, piece.data)
        self._note_change()
        return results

    async def _write(self, pieces: Sequence[NewPiece], piece_bytes: int) -> list[bytes | IntegrityError]:
        while True:
            try:
                return await self._store.in_thread(self._files.write, pieces, piece_bytes)
            except NoSpaceError as e:
                full = e
            if not await self._store.evict_one():
                raise full

    def _misfit(self, layout: Layout, piece: NewPiece) -> IntegrityError | None:
        size, count = len(piece.data), layout.count
        fits = size == layout.size(piece.number) or (count is None and 0 < size <= layout.piece_bytes)
        if fits and (count is None or piece.number < count):
            return None
        return IntegrityError(f"piece {piece.number} has {size} bytes, expected {layout.size(piece.number)}")

    def _keep(self, number: int, digest: bytes) -> bool:
        if self._record.digests.setdefault(number, digest) != digest:
            return False
        if number not in self.have:
            self.have.add(number)
        return True

    async def follow(self) -> AsyncIterator[News]:
        """What is here and comes, then what has changed; ends when all is here, or it is forgotten.

        A slow follower gets more at once, not a longer queue.
        """
        told, coming = Bitmap(), None
        while not self._gone:
            changed = self._changed
            fresh = Bitmap(self.have.bits & ~told.bits)
            if fresh.bits or self._coming != coming:
                told.bits, coming = told.bits | fresh.bits, self._coming
                pieces = [(number, self._record.digests[number]) for number in fresh]
                yield News(pieces, Bitmap(coming))
                continue
            if self.complete:
                return
            await changed.wait()

    def note_coming(self, pieces: int) -> None:
        """A bitmap of what this host is reading from the origin just now; followers hear of it."""
        if pieces != self._coming:
            self._coming = pieces
            self.wake()

    def wake(self) -> None:
        """Let all who wait for a change look again."""
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait until something comes, goes or becomes known."""
        await self._changed.wait()

    def count(self) -> None:
        """Tell the store how much there is of it by now."""
        held = 0 if self._gone else self.held_bytes
        self._store.note_bytes(held - self._counted)
        self._counted = held

    def _note_change(self) -> None:
        self.dirty = True
        self.count()
        self.wake()

    async def save(self) -> None:
        """Write the record if something changed.

        Raises:
            StorageError: it cannot be written.
        """
        if self.dirty and not self._gone:
            self.dirty = False
            self._saved_at_s = time.time()
            await self._store.in_thread(self._files.save, encode_record(self._record))

    async def discard(self) -> None:
        """Only for ``TaskStore.delete``."""
        self._gone = True
        self._store.recent.forget(self.id)
        self._note_change()
        with trio.CancelScope(shield=True):
            await self._store.in_thread(self._files.remove)
