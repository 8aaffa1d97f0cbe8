"""Sets right what damaged rows can leave behind: counters, queue rows and frames that belong to no chunk.

One write transaction over all rows (a second for some 300,000 chunks); part of ``cafs cache verify``.
"""

from __future__ import annotations

from cafs.core.s3fifo import Queue
from cafs.errors import IntegrityError
from cafs.store.catalog import Catalog
from cafs.store.records import Header, State, queue_key

_COUNTED = (
    "small_bytes",
    "main_bytes",
    "pinned_bytes",
    "small_chunks",
    "main_chunks",
    "pinned_chunks",
    "ghosts",
)


def recount(catalog: Catalog) -> int:
    """Repair the bookkeeping; returns how many things were wrong.

    Raises:
        IntegrityError: a row cannot be found under its own name, so the tree itself is wrong.
    """
    sound, damaged = _read_rows(catalog)
    for digest in damaged:
        catalog.txn.delete(digest, db=catalog.tables.chunks)
    return (
        len(damaged) + _repair_queue(catalog, sound) + _drop_orphans(catalog, sound) + _count(catalog, sound)
    )


def _read_rows(catalog: Catalog) -> tuple[dict[bytes, Header], list[bytes]]:
    sound: dict[bytes, Header] = {}
    damaged: list[bytes] = []
    for key, row in catalog.txn.cursor(catalog.tables.chunks):
        if catalog.txn.get(key, db=catalog.tables.chunks) is None:
            raise IntegrityError(f"the row of chunk {bytes(key).hex()} is not where its name belongs")
        try:
            sound[bytes(key)] = Header.decode(row)
        except IntegrityError:
            damaged.append(bytes(key))
    return sound, damaged


def _repair_queue(catalog: Catalog, sound: dict[bytes, Header]) -> int:
    expected = {queue_key(header.queue, header.position): digest for digest, header in sound.items()}
    wrong: list[bytes] = []
    for key, digest in catalog.txn.cursor(catalog.tables.queue):
        if expected.get(bytes(key)) == bytes(digest):
            del expected[bytes(key)]
        else:
            wrong.append(bytes(key))
    for stray in wrong:
        catalog.txn.delete(stray, db=catalog.tables.queue)
    for missing, owner in expected.items():
        catalog.txn.put(missing, owner, db=catalog.tables.queue)
    return len(wrong) + len(expected)


def _drop_orphans(catalog: Catalog, sound: dict[bytes, Header]) -> int:
    live = {header.frame_id for header in sound.values() if header.queue != Queue.GHOST}
    keys = catalog.txn.cursor(catalog.tables.frames).iternext(keys=True, values=False)
    orphans = [key for key in map(bytes, keys) if int.from_bytes(key[:8], "big") not in live]
    for key in orphans:
        catalog.txn.delete(key, db=catalog.tables.frames)
    return len(orphans)


def _count(catalog: Catalog, sound: dict[bytes, Header]) -> int:
    counted = State()
    for header in sound.values():
        counted.count(header.queue, 1, header.cost_bytes)
    wrong = [name for name in _COUNTED if getattr(catalog.state, name) != getattr(counted, name)]
    for name in wrong:
        setattr(catalog.state, name, getattr(counted, name))
    return len(wrong)
