"""Named sets of chunks that are never evicted, within one write transaction.

A chunk may be in several sets, and may be pinned before it is stored. Stored chunks that are pinned stand
in a queue of their own, which eviction never looks at; the last unpin puts them back: into main when they
were read, else into small.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from cafs.core.chunk import DIGEST_BYTES
from cafs.core.s3fifo import Queue
from cafs.store.catalog import Catalog
from cafs.store.environment import Txn
from cafs.store.tables import Tables

_NAME = b"set:"


class Pins:
    """Pin sets as seen by one write transaction."""

    def __init__(self, catalog: Catalog) -> None:
        self._txn = catalog.txn
        self._tables = catalog.tables
        self._catalog = catalog

    def pin(self, name: str, digests: Iterable[bytes]) -> None:
        """Add to a set; made when missing."""
        number = self._number(name)
        if number is None:
            number = self._catalog.state.next_set.to_bytes(4, "big")
            self._catalog.state.next_set += 1
            self._txn.put(_NAME + name.encode(), number, db=self._tables.state)
        for digest in digests:
            self._txn.put(digest + number, b"", db=self._tables.pins)
            self._txn.put(number + digest, b"", db=self._tables.members)
            header = self._catalog.find(digest)
            if header is not None and header.queue in (Queue.SMALL, Queue.MAIN):
                self._catalog.move(digest, header, Queue.PINNED, header.frequency)

    def unpin(self, name: str, digests: Sequence[bytes]) -> None:
        """Take these out of a set."""
        number = self._number(name)
        if number is None:
            return
        for digest in digests:
            self._txn.delete(number + digest, db=self._tables.members)
            if not self._txn.delete(digest + number, db=self._tables.pins):
                continue
            header = self._catalog.find(digest)
            if header is None or header.queue != Queue.PINNED:
                continue
            if not self._tables.is_pinned(self._txn, digest):
                queue = Queue.MAIN if header.frequency else Queue.SMALL
                self._catalog.move(digest, header, queue, header.frequency)

    def some_members(self, name: str, limit: int) -> list[bytes]:
        """Up to so many of a set."""
        number = self._number(name)
        return [] if number is None else list(islice(members(self._txn, self._tables, number), limit))

    def forget(self, name: str) -> None:
        """Remove a set that is empty."""
        self._txn.delete(_NAME + name.encode(), db=self._tables.state)

    def _number(self, name: str) -> bytes | None:
        row = self._txn.get(_NAME + name.encode(), db=self._tables.state)
        return None if row is None else bytes(row)


def pin_sets(txn: Txn, tables: Tables) -> dict[str, int]:
    """How many chunks each set names, stored or not."""
    cursor = txn.cursor(tables.state)
    sets: dict[str, int] = {}
    ok = cursor.set_range(_NAME)
    while ok and bytes(cursor.key()).startswith(_NAME):
        name = bytes(cursor.key())[len(_NAME) :].decode(errors="replace")
        sets[name] = sum(1 for _ in members(txn, tables, bytes(cursor.value())))
        ok = cursor.next()
    return sets


def members(txn: Txn, tables: Tables, number: bytes) -> Iterator[bytes]:
    """Digests in a set; the set may not be changed while this is being read."""
    cursor = txn.cursor(tables.members)
    ok = cursor.set_range(number)
    while ok:
        key = bytes(cursor.key())
        if len(key) != len(number) + DIGEST_BYTES or not key.startswith(number):
            return
        yield key[len(number) :]
        ok = cursor.next()
