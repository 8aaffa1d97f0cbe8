"""What is done to a whole store: verify it, bring it down to its quota, clear it.

All of it in short transactions, so that a mount goes on reading and writing meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from cafs.core.chunk import DIGEST_BYTES, FrameDecoder
from cafs.core.progress import Progress, Step
from cafs.core.s3fifo import Queue
from cafs.errors import IntegrityError
from cafs.store.environment import Txn
from cafs.store.location import remove_damaged, unreadable
from cafs.store.pins import Pins, pin_sets
from cafs.store.records import Header, queue_key
from cafs.store.recount import recount
from cafs.store.session import Session

BATCH = 256
"""Chunks read in one transaction; frames of so many are decoded meanwhile."""
REMOVED_AT_ONCE = 2048
_WORTH_COMPACTING_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Verified:
    """What ``verify`` found."""

    chunks: int
    plain_bytes: int
    rotten: tuple[str, ...]
    """One line for each chunk that was dropped."""
    repaired: int
    """Rows without a chunk and counters that were set right."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What ``collect_garbage`` gave back."""

    evicted_bytes: int
    returned_bytes: int
    """To the disk: the file's shrinking and what had been set aside."""
    in_use: bool
    """Others have the store open, so its file could not be made smaller."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """What ``clear`` removed and what it left."""

    chunks: int
    returned_bytes: int
    pinned_chunks: int
    in_use: bool


def verify(session: Session, progress: Progress) -> Verified:
    """See ``ChunkStore.verify``."""
    _check_file(session, progress)
    chunks = plain_bytes = 0
    rotten: list[str] = []
    with _step(progress, "chunks", session.row_count(), "chunks") as step:
        for batch in _chunk_batches(session):
            sizes, wrong = _check(session, batch)
            chunks += len(sizes)
            plain_bytes += sum(sizes)
            rotten.extend(wrong.values())
            if wrong and not session.readonly:
                with session.catalog() as catalog:
                    for digest in wrong:
                        catalog.drop_rotten(digest)
            step.advance(len(batch))
    return Verified(chunks, plain_bytes, tuple(rotten), 0 if session.readonly else _repair(session))


def _check_file(session: Session, progress: Progress) -> None:
    """All of it is read plainly before anything is touched through LMDB's map, where a bad sector kills."""
    with _step(progress, "file", session.file_bytes(), "bytes") as step:
        findings = unreadable(session.directory / "chunks" / "data.mdb", step.advance)
    if not findings:
        with _step(progress, "pages", None, "pages") as step:
            findings = session.structure_findings()
            step.advance(session.file_bytes() // 4096)
    if findings:
        raise _condemned(session, findings[0])


@contextmanager
def _step(progress: Progress, name: str, total: int | None, unit: str) -> Iterator[Step]:
    step = progress.step(name, total, unit)
    try:
        yield step
    finally:
        step.finish()


def _chunk_batches(session: Session) -> Iterator[list[bytes]]:
    """Digests of all rows, in batches, each read in a transaction of its own."""
    start = b"\0"
    while True:
        with session.read() as txn:
            batch = list(islice(_keys_from(txn, session, start), BATCH))
        if not batch:
            return
        yield batch
        start = batch[-1] + b"\0"


def _keys_from(txn: Txn, session: Session, start: bytes) -> Iterator[bytes]:
    cursor = txn.cursor(session.tables.chunks)
    ok = cursor.set_range(start)
    while ok:
        yield bytes(cursor.key())
        ok = cursor.next()


def _check(session: Session, batch: list[bytes]) -> tuple[list[int], dict[bytes, str]]:
    """Decode these; returns the plain sizes of the sound ones and what is wrong with the others."""
    sizes: list[int] = []
    wrong: dict[bytes, str] = {}
    decoder = FrameDecoder()
    with session.read() as txn:
        for digest in batch:
            try:
                size = _check_chunk(txn, session, decoder, digest)
            except IntegrityError as e:
                wrong[digest] = str(e)
            else:
                sizes.extend([] if size is None else [size])
    return sizes, wrong


def _check_chunk(txn: Txn, session: Session, decoder: FrameDecoder, digest: bytes) -> int | None:
    """The plain size of a sound chunk; None when there is none (any more)."""
    row = txn.get(digest, db=session.tables.chunks)
    if row is None:
        return None
    header = Header.decode(row)
    if len(digest) != DIGEST_BYTES:
        raise IntegrityError(f"a chunk's key has {len(digest)} bytes")
    if header.queue == Queue.GHOST:
        return None
    frame = session.tables.frame(txn, header)
    if frame is None or len(frame) != header.frame_bytes:
        raise IntegrityError(f"chunk {digest.hex()} has lost bytes of its frame")
    decoder.decode(digest, header.codec, frame, header.plain_bytes)
    return header.plain_bytes


def _repair(session: Session) -> int:
    try:
        with session.catalog() as catalog:
            return recount(catalog)
    except IntegrityError as e:
        raise _condemned(session, str(e)) from e


def _condemned(session: Session, why: str) -> IntegrityError:
    session.condemn(why)
    return IntegrityError(f"chunk store {session.directory} is damaged ({why}); the next use sets it aside")


def collect_garbage(session: Session) -> Collected:
    """See ``ChunkStore.gc``."""
    session.clear_dead_readers()
    evicted = session.shrink()
    returned, in_use = _give_back(session)
    return Collected(evicted, returned, in_use)


def clear(session: Session, *, pinned: bool) -> Cleared:
    """See ``ChunkStore.clear``."""
    with session.read() as txn:
        names = list(pin_sets(txn, session.tables))
    if pinned or not names:
        chunks, before = session.state().chunks, session.file_bytes()
        returned = remove_damaged(session.directory)
        if session.start_afresh():
            return Cleared(chunks, returned + max(0, before - session.file_bytes()), 0, in_use=False)
    if pinned:
        for name in names:
            remove_pin_set(session, name)
    return _clear_rows(session)


def _clear_rows(session: Session) -> Cleared:
    """Row by row, where something stays or somebody looks on."""
    before = session.state().chunks
    for queue in (Queue.SMALL, Queue.MAIN, Queue.GHOST):
        _empty(session, queue)
    returned, in_use = _give_back(session)
    after = session.state()
    return Cleared(max(0, before - after.chunks), returned, after.pinned_chunks, in_use)


def remove_pin_set(session: Session, name: str) -> None:
    """Unpin all chunks of a set and forget it."""
    left = True
    while left:
        with session.catalog() as catalog:
            pins = Pins(catalog)
            some = pins.some_members(name, REMOVED_AT_ONCE)
            pins.unpin(name, some)
            left = bool(some)
            if not left:
                pins.forget(name)


def _empty(session: Session, queue: Queue) -> None:
    """Forget what stands in a queue now; what arrives meanwhile stays."""
    last = queue_key(queue, session.state().next_id)
    left = True
    while left:
        with session.catalog() as catalog:
            rows = [row for row in islice(catalog.queued(queue), REMOVED_AT_ONCE) if row[0] <= last]
            for key, digest in rows:
                catalog.forget(key, digest)
            left = bool(rows)


def _give_back(session: Session) -> tuple[int, bool]:
    """Make the file smaller where that is worth the copying; returns the bytes and whether others hold it."""
    returned = remove_damaged(session.directory)
    before = session.file_bytes()
    if before - session.state().used_bytes * 5 // 4 < _WORTH_COMPACTING_BYTES:
        return returned, False
    if not session.compact():
        return returned, True
    return returned + max(0, before - session.file_bytes()), False
