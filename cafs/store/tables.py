"""The tables of a store's LMDB environment. docs/chunk-store.md says what is in each."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cafs.store.environment import Environment, Table, Txn
from cafs.store.records import Header, segment_count, segment_key

STATE_KEY = b"state"


@dataclass(frozen=True, slots=True)
class Tables:
    """Handles of the store's tables; docs/chunk-store.md says what is in each."""

    chunks: Table
    frames: Table
    queue: Table
    pins: Table
    members: Table
    state: Table

    @classmethod
    def open(cls, env: Environment) -> Tables:
        """All of them; made when missing, unless read-only."""
        return cls(*(env.table(name) for name in _NAMES))

    def frame(self, txn: Txn, header: Header) -> bytes | memoryview | None:
        """A stored frame: a buffer that dies with ``txn``, or bytes when it was cut into segments."""
        count = segment_count(header.frame_bytes)
        if count == 1:
            return txn.get(segment_key(header.frame_id, 0), db=self.frames)
        parts = [txn.get(segment_key(header.frame_id, n), db=self.frames) for n in range(count)]
        return b"".join(part for part in parts if part is not None)

    def is_pinned(self, txn: Txn, digest: bytes) -> bool:
        """Is the chunk in any pin set?"""
        cursor = txn.cursor(self.pins)
        return cursor.set_range(digest) and bytes(cursor.key()).startswith(digest)


_NAMES = tuple(field.name for field in fields(Tables))
