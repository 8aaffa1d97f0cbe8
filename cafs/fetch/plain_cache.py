"""Plain chunks in memory, bounded in bytes: those that were read, and those that are about to be.

What was fetched ahead of its readers is kept apart until it is read: behind what others read it would be gone
before, and be read from the store and decoded a second time. What nobody reads is let go after a while.

Owned by one ``ChunkService`` and touched from its trio thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

Plain = bytes | memoryview


class PlainCache:
    """Chunk digest -> plain bytes."""

    def __init__(self, limit_bytes: int, ahead_limit_bytes: int = 0) -> None:
        """
        Args:
            limit_bytes: Of chunks that were read; the least recently used go first.
            ahead_limit_bytes: Of chunks that were not; when they are more, the oldest count as read.
        """
        self._limit_bytes = limit_bytes
        self._chunks: OrderedDict[bytes, Plain] = OrderedDict()
        self.used_bytes = 0
        """By chunks that were read."""
        self._ahead_limit_bytes = ahead_limit_bytes
        self._ahead: OrderedDict[bytes, tuple[Plain, int]] = OrderedDict()
        self._ahead_bytes = 0
        self._age = 0

    def __len__(self) -> int:
        return len(self._chunks) + len(self._ahead)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._chunks or digest in self._ahead

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        yield from self._ahead

    def get(self, digest: bytes) -> Plain | None:
        """The chunk's bytes, now the most recently used; None if it is not here."""
        plain = self._chunks.get(digest)
        if plain is not None:
            self._chunks.move_to_end(digest)
        elif digest in self._ahead:
            plain = self._take_ahead(digest)
            self.put(digest, plain)
        return plain

    def put(self, digest: bytes, plain: Plain) -> None:
        """Keep a verified chunk, and let the oldest go while there are too many bytes."""
        if digest in self._ahead:
            self._take_ahead(digest)
        if digest in self._chunks:
            self._chunks.move_to_end(digest)
            return
        self._chunks[digest] = plain
        self.used_bytes += len(plain)
        while self.used_bytes > self._limit_bytes:
            _, oldest = self._chunks.popitem(last=False)
            self.used_bytes -= len(oldest)

    def put_ahead(self, digest: bytes, plain: Plain) -> None:
        """Keep a verified chunk that nobody has asked for yet."""
        if digest in self:
            return
        self._ahead[digest] = plain, self._age
        self._ahead_bytes += len(plain)
        while self._ahead_bytes > self._ahead_limit_bytes:
            oldest = next(iter(self._ahead))
            self.put(oldest, self._take_ahead(oldest))

    def let_go_unread(self) -> None:
        """Called now and then: what was not read since the call before counts as read."""
        old = [digest for digest, (_, age) in self._ahead.items() if age < self._age]
        for digest in old:
            self.put(digest, self._take_ahead(digest))
        self._age += 1

    def _take_ahead(self, digest: bytes) -> Plain:
        plain, _ = self._ahead.pop(digest)
        self._ahead_bytes -= len(plain)
        return plain
