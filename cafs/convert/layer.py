"""One layer from its bytes to an index file and a chunk blob, both in a work directory.

The conversion is plain synchronous code on one worker thread, fed through a bounded channel by a trio
task that reads (and verifies) the blob; compression runs on the shared executor. Cancelling the task
ends the thread at its next piece. Nothing is visible outside the work directory.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from cafs.convert.below import Below
from cafs.convert.compress import ChunkWriter
from cafs.convert.known_chunks import KnownChunks
from cafs.convert.layer_builder import FinishedLayer, LayerBuilder
from cafs.convert.plain_stream import PlainStream
from cafs.convert.tar_reader import TarReader
from cafs.core.chunking import ChunkingOptions
from cafs.core.digest import Digest
from cafs.core.entry import Meta
from cafs.core.progress import Step
from cafs.core.tar import Entry
from cafs.errors import IntegrityError, StorageError, UsageError

log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20
"""Pieces are gathered to this size: a hop to the thread costs as much as hashing several chunks."""
_PIECES_AHEAD = 8

BlobStream = AbstractAsyncContextManager[AsyncIterator[bytes]]
Feed = Callable[[LayerBuilder, Iterator[bytes]], bytes]
"""Adds the entries of a layer to a builder; returns its diffID as raw sha256."""


@dataclass(frozen=True, slots=True)
class BelowLayer:
    """The layers below one, which may not be converted yet."""

    wait: Callable[[], Below | None]
    """Blocks until they are; called on the conversion thread."""
    chain_id: bytes | None
    """Raw sha256 of theirs; None: there are none."""


NOTHING_BELOW = BelowLayer(lambda: None, None)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What all layers of a run share."""

    folder: Path
    """Temporary files; removed by the owner whatever happens."""
    executor: Executor
    options: ChunkingOptions
    new_known: Callable[[], KnownChunks]
    """The chunks of the dictionary, for a layer to add its own to."""


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """A converted layer in the work directory."""

    finished: FinishedLayer
    diff_id: Digest
    index: Path
    chunks: Path
    dropped_xattrs: int


async def convert_blob(
    shop: Workshop,
    name: str,
    blob: BlobStream,
    feed: Feed,
    step: Step,
    *,
    below: BelowLayer = NOTHING_BELOW,
    label: str | None = None,
) -> LayerFiles:
    """Convert one layer.

    Args:
        name: Of the layer's files in the work directory.
        blob: The layer as it is stored, verified at its end.
        feed: How its bytes become entries.
        step: Told of the stored bytes that were taken.
        below: The layers below, asked only when an entry speaks of them.
        label: What errors call the layer; None: its bytes are the user's own files.

    Raises:
        IntegrityError, UsageError: the layer cannot be converted, or is not what its digest says.
        StorageError: the disk is full.
    """
    send, receive = trio.open_memory_channel[bytes](_PIECES_AHEAD)

    def work() -> LayerFiles:
        with _blaming(label):
            return _convert(shop, name, feed, _pieces(receive), below)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, blob, send, step)
        files = await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))
    return files  # noqa: RET504  after the nursery: only then was the blob verified


async def convert_local(
    shop: Workshop, name: str, file: Path | None, feed: Feed, step: Step, *, label: str | None = None
) -> LayerFiles:
    """Convert a local tar, or what ``feed`` finds by itself; see ``convert_blob``.

    The conversion thread reads the file itself: no hop for each piece.
    """

    def work() -> LayerFiles:
        pieces = _heartbeat() if file is None else _file_pieces(file, step)
        with _blaming(label):
            return _convert(shop, name, feed, pieces, NOTHING_BELOW)

    return await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))


def tar_feed(builder: LayerBuilder, pieces: Iterator[bytes]) -> bytes:
    """A tar in any compression."""
    stream = PlainStream(pieces)
    reader = TarReader(stream)
    try:
        for entry in reader.entries():
            builder.add(entry, reader.fill)
    except UsageError as e:
        # What cannot be in a tree is a mistake of the layer here, not of the user.
        raise IntegrityError(str(e)) from e
    return stream.drain()


def file_feed(title: bytes, size: int) -> Feed:
    """A blob that is one file, as artifacts have them: readable by all, without a time."""

    def feed(builder: LayerBuilder, pieces: Iterator[bytes]) -> bytes:
        hasher = hashlib.sha256()

        def hashed() -> Iterator[bytes]:
            for piece in pieces:
                hasher.update(piece)
                yield piece

        stream = PlainStream(hashed(), decode=False)
        meta = Meta(stat.S_IFREG | 0o644)
        entry = Entry(title, meta, size, size, b"", is_hard_link=False, runs=None, map_in_data=False)
        builder.add(entry, stream.fill)
        return stream.drain()

    return feed


def check_diff_id(files: LayerFiles, expected: Digest, layer: Digest) -> None:
    """Compare a layer's diffID with what the image's config says.

    Raises:
        IntegrityError: they differ.
    """
    if files.diff_id != expected:
        raise IntegrityError(
            f"layer {layer} unpacks to {files.diff_id}, but the image's config says {expected}"
        )


def warn_of_dropped_xattrs(files: LayerFiles, what: str) -> None:
    """Say that attributes of ``what`` were left out, if any were."""
    if files.dropped_xattrs:
        log.warning(
            "%s: %d trusted.overlay.* attributes left out: they would steer overlayfs",
            what,
            files.dropped_xattrs,
        )


def _convert(shop: Workshop, name: str, feed: Feed, pieces: Iterator[bytes], below: BelowLayer) -> LayerFiles:
    index, chunks = shop.folder / f"{name}.index", shop.folder / f"{name}.chunks"
    known = shop.new_known()
    with _storage_errors(shop.folder), index.open("wb") as index_file, chunks.open("wb") as chunk_file:
        writer = ChunkWriter(chunk_file, shop.executor, known, shop.options)
        try:
            builder = LayerBuilder(writer, known, shop.options)
            diff_id = feed(builder, pieces)
            tree = below.wait() if builder.needs_below else None
            finished = builder.finish(index_file, diff_id, tree, below.chain_id)
        finally:
            writer.close()
    return LayerFiles(finished, Digest("sha256:" + diff_id.hex()), index, chunks, builder.dropped_xattrs)


async def _pump(blob: BlobStream, send: trio.MemorySendChannel[bytes], step: Step) -> None:
    async with blob as pieces:
        gathered: list[bytes] = []
        size = 0
        async for piece in pieces:
            gathered.append(piece)
            size += len(piece)
            step.advance(len(piece))
            if size >= _PIECE_BYTES:
                await send.send(b"".join(gathered))
                gathered, size = [], 0
        if gathered:
            await send.send(b"".join(gathered))
    # Here the blob has been verified. After a failure the channel stays open: the thread is cancelled then,
    # where a closed one would have it complain of a truncated layer and hide what really happened.
    await send.aclose()


def _pieces(receive: trio.MemoryReceiveChannel[bytes]) -> Iterator[bytes]:
    while True:
        try:
            yield trio.from_thread.run(receive.receive)
        except trio.EndOfChannel:
            return


def _heartbeat() -> Iterator[bytes]:
    """Empty pieces without end; taking one notices a cancelled conversion."""
    while True:
        trio.from_thread.check_cancelled()
        yield b""


def _file_pieces(path: Path, step: Step) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE_BYTES):
                trio.from_thread.check_cancelled()
                step.advance(len(piece))
                yield piece
    except OSError as e:
        raise StorageError(f"cannot read {path}: {e.strerror}") from e


@contextmanager
def _blaming(label: str | None) -> Iterator[None]:
    """What is wrong in a layer is damage, whose kind ever the error is, and the layer is named in it."""
    try:
        yield
    except (IntegrityError, UsageError) as e:
        if label is None:
            raise
        raise IntegrityError(f"{label}: {e}") from e


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(f"no space left in {folder}: free some, or set cache_dir elsewhere") from e
        raise StorageError(f"cannot write to {folder}: {e.strerror or e}") from e
