"""Chunks for all layers of a mount: memory, store, sources.

``ChunkService`` is used as an async context manager; everything it starts runs in its own nursery and ends
with it. One per process, used from one trio thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import trio

from cafs.core.chunk import Chunk, decode_frame
from cafs.core.source import BlobSource
from cafs.errors import CafsError, DeadlineError, RemoteError
from cafs.fetch.limits import FetchLimits
from cafs.fetch.plain_cache import Plain, PlainCache
from cafs.fetch.reader import LayerFile, LayerReader


class FrameStore(Protocol):
    """What the service needs of the chunk store. Called in worker threads, several at once."""

    def get(self, wanted: Sequence[tuple[bytes, int]], /) -> list[Chunk | None]:
        """Verified chunks by (digest, plain bytes)."""
        ...

    def put(self, chunks: Sequence[Chunk], /) -> object:
        """Keep verified chunks."""
        ...


class ChunkService:
    """Brings chunks to the readers of any number of layers."""

    def __init__(self, store: FrameStore | None, limits: FetchLimits) -> None:
        self._store = store
        self._limits = limits
        self._memory = PlainCache(limits.memory_cache_bytes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def add_layer(self, index: LayerFile, sources: Sequence[BlobSource], name: str) -> LayerReader:
        """A reader of this layer, whose blobs are asked of ``sources`` in that order."""
        return LayerReader(self, index, sources, name)

    def cached(self, digest: bytes) -> Plain | None:
        """A plain chunk that is in memory."""
        return self._memory.get(digest)

    async def chunks(self, layer: LayerReader, rows: Sequence[int], deadline: float | None) -> list[Plain]:
        """The plain chunks of these rows; see ``LayerReader.read`` for what it raises."""
        limit = self._limits.read_deadline_s if deadline is None else deadline - trio.current_time()
        found: list[Plain] = []
        with trio.move_on_after(max(limit, 0)):
            for row in rows:
                digest = layer.ref(row).digest
                plain = self._memory.get(digest) or await self._bring(layer, row)
                self._memory.put(digest, plain)
                found.append(plain)
            return found
        raise DeadlineError(f"layer {layer.name}: the bytes did not come in {limit:.0f} s")

    async def _bring(self, layer: LayerReader, row: int) -> Plain:
        ref = layer.ref(row)
        if self._store is not None:
            kept = await trio.to_thread.run_sync(self._store.get, [(ref.digest, ref.plain_bytes)])
            if kept[0] is not None:
                return kept[0].plain
        failure: CafsError = RemoteError(f"layer {layer.name}: no source to fetch from")
        for source in layer.sources:
            try:
                frame = await source.read_range(layer.blobs[ref.blob], ref.offset, ref.frame_bytes)
                chunk = decode_frame(ref.digest, ref.codec, frame, ref.plain_bytes)
            except CafsError as e:
                failure = e
                continue
            if self._store is not None:
                await trio.to_thread.run_sync(self._store.put, [chunk])
            return chunk.plain
        raise failure
