"""Reads every chunk of an image from where it is stored, and verifies it; for ``cafs check``.

Goes blob by blob, front to back, a few ranges at a time, so that memory stays bounded. Damage is
collected, not raised: one bad chunk says nothing of the others. A blob that the image's chunks cover
wholly is compared with its own digest too. All tasks live in ``check_chunks``; cancelling it is fine at
any time, nothing is kept.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import trio
from numpy.typing import NDArray

from cafs.core.backoff import Answer, plan_next
from cafs.core.chunk import ChunkRef
from cafs.core.progress import Progress, Step
from cafs.core.source import BlobRef, BlobSource
from cafs.errors import CafsError, IntegrityError, NotFoundError, ProtocolError, RemoteError
from cafs.fetch.open_image import OpenLayer
from cafs.fetch.verify import verify_frames
from cafs.index.table_array import table_rows

_RANGE_BYTES = 4 << 20
_RANGES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong, and exactly where."""

    blob: str
    offset: int
    """In the blob."""
    what: str
    layer: int | None = None
    """Number of the layer, 0 is the lowest; None for a blob as a whole."""
    row: int | None = None
    """Of the layer's chunk table; None for its index."""
    virtual_offset: int | None = None
    """Of the chunk in the layer's virtual image."""

    def __str__(self) -> str:
        if self.layer is None:
            return f"blob {self.blob}: {self.what}"
        if self.row is None:
            return f"layer {self.layer}, index {self.blob}: {self.what}"
        return (
            f"layer {self.layer}, chunk {self.row} (image offset {self.virtual_offset}), "
            f"at {self.offset} of blob {self.blob}: {self.what}"
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, and what was found."""

    chunks: int
    frame_bytes: int
    damages: tuple[Damage, ...]
    layers: int = 0


async def check_chunks(layers: Mapping[int, OpenLayer], progress: Progress, retries: int) -> Checked:
    """Verify every chunk of the layers (by number, 0 is the lowest), each frame once.

    Raises:
        RemoteError, StorageError: a source failed in a way that says nothing of the bytes.
    """
    damages: list[Damage] = []
    chunks = frame_bytes = 0
    for blob, source, places in _blobs_of(layers):
        check = _BlobCheck(layers, blob, source, places, retries)
        step = progress.step(f"blob {blob.digest[7:19]}", total=check.frame_bytes)
        try:
            damages += await check.run(step)
        finally:
            step.finish()
        chunks, frame_bytes = chunks + len(places), frame_bytes + check.frame_bytes
    return Checked(chunks, frame_bytes, tuple(damages), len(layers))


_Places = NDArray[np.int64]
"""Frames of a blob, sorted; columns: offset, frame bytes, layer, row."""


@dataclass(frozen=True, slots=True)
class _Frame:
    layer: int
    row: int
    ref: ChunkRef


@dataclass(frozen=True, slots=True)
class _Range:
    """Frames that lie one behind the other."""

    offset: int
    length: int
    frames: tuple[_Frame, ...]


def _blobs_of(layers: Mapping[int, OpenLayer]) -> list[tuple[BlobRef, BlobSource, _Places]]:
    found: dict[BlobRef, tuple[BlobSource, list[_Places]]] = {}
    for number, layer in layers.items():
        rows = table_rows(layer.index)
        for blob_number, blob in enumerate(layer.index.blobs):
            mine = np.flatnonzero(rows["blob"] == blob_number)
            columns = (rows["offset"][mine], rows["frame_bytes"][mine], np.full(len(mine), number), mine)
            places = np.stack([column.astype(np.int64) for column in columns], axis=1)
            found.setdefault(blob, (layer.source, []))[1].append(places)
    blobs = []
    for blob, (source, parts) in found.items():
        places = np.concatenate(parts)
        order = np.lexsort((places[:, 3], places[:, 2], places[:, 1], places[:, 0]))
        blobs.append((blob, source, places[order]))
    return blobs


class _BlobCheck:
    def __init__(
        self,
        layers: Mapping[int, OpenLayer],
        blob: BlobRef,
        source: BlobSource,
        places: _Places,
        retries: int,
    ) -> None:
        self._layers = layers
        self._blob = blob
        self._source = source
        self._places = places
        self._retries = retries
        self._hasher = hashlib.new(blob.digest.partition(":")[0])
        self._hashed = 0
        self.frame_bytes = int(places[np.unique(places[:, 0], return_index=True)[1], 1].sum())

    async def run(self, step: Step) -> list[Damage]:
        """Read all of it."""
        damages: list[Damage] = []
        try:
            ranges = self._ranges()
            while window := list(itertools.islice(ranges, _RANGES_AT_ONCE)):
                damages += await self._check_window(window, step)
        except NotFoundError as e:
            return [*damages, Damage(self._blob.digest, 0, str(e))]
        if self._hashed == self._blob.size and not damages:
            actual = f"{self._hasher.name}:{self._hasher.hexdigest()}"
            if actual != self._blob.digest:
                damages.append(Damage(self._blob.digest, 0, f"does not match its digest, has {actual}"))
        return damages

    def _frames(self) -> Iterator[_Frame]:
        last: ChunkRef | None = None
        for _, _, layer, row in self._places.tolist():
            ref = self._layers[layer].index.table.row(row)
            # Layers number their blobs differently; all else tells whether it is the same frame again.
            same = last is not None and (ref.offset, ref.frame_bytes, ref.digest) == (
                last.offset,
                last.frame_bytes,
                last.digest,
            )
            if not same:
                yield _Frame(layer, row, ref)
            last = ref

    def _ranges(self) -> Iterator[_Range]:
        members: list[_Frame] = []
        begin = end = 0
        for frame in self._frames():
            offset, frame_end = frame.ref.offset, frame.ref.offset + frame.ref.frame_bytes
            if members and (offset > end or frame_end - begin > _RANGE_BYTES):
                yield _Range(begin, end - begin, tuple(members))
                members = []
            if not members:
                begin = end = offset
            members.append(frame)
            end = max(end, frame_end)
        if members:
            yield _Range(begin, end - begin, tuple(members))

    async def _check_window(self, window: Sequence[_Range], step: Step) -> list[Damage]:
        bodies: dict[int, bytes] = {}
        damages: dict[int, list[Damage]] = {}

        async def check_one(part: _Range) -> None:
            try:
                bodies[part.offset] = await self._read(part.offset, part.length)
                damages[part.offset] = await trio.to_thread.run_sync(self._verify, part, bodies[part.offset])
            except IntegrityError:
                damages[part.offset] = [d for frame in part.frames for d in await self._check_frame(frame)]
            step.advance(part.length)

        try:
            async with trio.open_nursery() as nursery:
                for part in window:
                    nursery.start_soon(check_one, part)
        except* CafsError as group:
            raise _first(group) from None
        for part in window:
            if part.offset == self._hashed and part.offset in bodies:
                await trio.to_thread.run_sync(self._hasher.update, bodies[part.offset])
                self._hashed += part.length
        return [damage for part in window for damage in damages[part.offset]]

    async def _check_frame(self, frame: _Frame) -> list[Damage]:
        """One frame alone, after a range could not be read whole."""
        try:
            body = await self._read(frame.ref.offset, frame.ref.frame_bytes)
        except IntegrityError as e:
            return [self._damage(frame, str(e))]
        return self._verify(_Range(frame.ref.offset, frame.ref.frame_bytes, (frame,)), body)

    def _verify(self, part: _Range, body: bytes) -> list[Damage]:
        damages = []
        for frame in part.frames:
            # One by one: a range of well compressed frames is too large to hold decompressed.
            (chunk,) = verify_frames(body, part.offset, [frame.ref])
            if isinstance(chunk, IntegrityError):
                damages.append(self._damage(frame, str(chunk)))
        return damages

    def _damage(self, frame: _Frame, what: str) -> Damage:
        start = self._layers[frame.layer].index.table.start(frame.row)
        return Damage(self._blob.digest, frame.ref.offset, what, frame.layer, frame.row, start)

    async def _read(self, offset: int, length: int) -> bytes:
        """One range, asked for again after failures that may pass."""
        answers: list[Answer] = []
        while True:
            try:
                return await self._ask(offset, length)
            except RemoteError as e:
                answers.append(Answer(0, self._source.name, e, time.time()))
                ask = plan_next(answers, 1, jitter=random.random())  # noqa: S311 -- spreads retries
                if ask is None or len(answers) > self._retries:
                    raise
                await trio.sleep(ask.wait_s)

    async def _ask(self, offset: int, length: int) -> bytes:
        body = await self._source.read_range(self._blob, offset, length)
        if len(body) != length:
            raise ProtocolError(f"{self._source.name} sent {len(body)} bytes instead of {length}")
        return body


def _first(group: BaseExceptionGroup[CafsError]) -> CafsError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, CafsError)
    return error
