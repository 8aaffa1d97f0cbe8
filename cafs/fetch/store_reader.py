"""Asking the chunk store, in worker threads, once for each read; and doing without it when it fails.

Owned by ``ChunkService``. A store that cannot be read costs one warning and is not asked again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from cafs.fetch.resident import release_mapped_pages
from cafs.fetch.verify import FrameStore

log = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")

THREADS = 4
"""Lookups at once: two keep both cores busy, more hide the disk's latency."""
RELEASE_EVERY_BYTES = 20 << 20
"""Of plain bytes, read from the map: then its pages are let go."""


class StoreReader:
    """The reading side of a ``FrameStore``, or of none."""

    def __init__(self, store: FrameStore | None) -> None:
        self._store = store
        self._threads = trio.CapacityLimiter(THREADS)
        self._usable = store is not None
        self._since_release = 0

    async def get(self, wanted: Sequence[tuple[bytes, int]]) -> Sequence[bytes | None]:
        """The verified plain bytes by (digest, size); None for what the store lacks."""
        if self._store is None or not self._usable:
            return [None] * len(wanted)
        self._since_release += sum(size for _digest, size in wanted)
        release = self._since_release >= RELEASE_EVERY_BYTES
        if release:
            self._since_release = 0
        return await trio.to_thread.run_sync(self._read, wanted, release, limiter=self._threads)

    def _read(self, wanted: Sequence[tuple[bytes, int]], release: bool) -> Sequence[bytes | None]:
        """In a worker thread."""
        assert self._store is not None
        if release:
            self.release_pages()
        return self._guard(self._store.get, wanted, None)

    def release_pages(self) -> None:
        """Let go of mapped pages, when there are many. In a worker thread."""
        release_mapped_pages(self._store)

    async def has(self, digests: Sequence[bytes]) -> Sequence[bool]:
        """Which of these the store has."""
        if self._store is None or not self._usable:
            return [False] * len(digests)
        return await trio.to_thread.run_sync(
            self._guard, self._store.has, digests, False, limiter=self._threads
        )

    def _guard(
        self,
        ask: Callable[[Sequence[Asked]], Sequence[Answered]],
        wanted: Sequence[Asked],
        otherwise: Answered,
    ) -> Sequence[Answered]:
        try:
            return ask(wanted)
        except Exception as e:  # whatever ails the store, the readers must get an answer
            if self._usable:
                self._usable = False
                log.warning("the chunk store cannot be read, going on without it: %s", e)
            return [otherwise] * len(wanted)
