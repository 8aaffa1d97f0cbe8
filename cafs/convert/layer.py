"""One layer from its bytes to an index file and a chunk blob, both in a work directory.

The conversion is plain synchronous code on two worker threads: one decompresses and hashes, one builds.
They are fed through a bounded channel by a trio task that reads (and verifies) the blob; compression
runs on the shared executor. Cancelling the task ends the threads at their next piece. Nothing is visible
outside the work directory.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from cafs.convert.below import Below
from cafs.convert.compress import ChunkWriter
from cafs.convert.feeds import StreamFeed, TreeFeed, tar_feed
from cafs.convert.known_chunks import KnownChunks
from cafs.convert.layer_builder import FinishedLayer, LayerBuilder, LeftOut
from cafs.convert.plain_stream import HashedPieces, PlainStream
from cafs.convert.read_ahead import ReadAhead
from cafs.core.chunking import ChunkingOptions
from cafs.core.digest import Digest
from cafs.core.progress import Step
from cafs.errors import IntegrityError, StorageError, UsageError
from cafs.index.scratch import Scratch

log = logging.getLogger(__name__)

_PIECE_BYTES = 1 << 20
"""Pieces are gathered to this size: a hop to the thread costs as much as hashing several chunks."""
_PIECES_AHEAD = 8

BlobStream = AbstractAsyncContextManager[AsyncIterator[bytes]]
T = TypeVar("T")


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
    new_known: Callable[[Scratch], KnownChunks]
    """The chunks of the dictionary, for a layer to add its own to."""


@dataclass(frozen=True, slots=True)
class LayerFiles:
    """A converted layer in the work directory."""

    finished: FinishedLayer
    diff_id: Digest
    index: Path
    chunks: Path
    left_out: LeftOut
    asked_below: bool
    """Whether an entry speaks of what only the layers below can say, also where they say nothing of it."""


async def convert_blob(
    shop: Workshop,
    name: str,
    blob: BlobStream,
    feed: StreamFeed,
    step: Step,
    *,
    below: BelowLayer = NOTHING_BELOW,
    label: str,
) -> LayerFiles:
    """Convert one layer.

    Args:
        name: Of the layer's files in the work directory.
        blob: The layer as it is stored, verified at its end.
        feed: How its bytes become entries.
        step: Told of the stored bytes that were taken.
        below: The layers below, asked only when an entry speaks of them.
        label: What errors call the layer.

    Raises:
        IntegrityError, UsageError: the layer cannot be converted, or is not what its digest says.
        StorageError: the disk is full.
    """
    send, receive = trio.open_memory_channel[bytes](_PIECES_AHEAD)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, blob, send, step)
        ahead = ReadAhead(HashedPieces(_pieces(receive), decode=feed.decode))
        files = await _convert_stream(shop, name, feed, ahead, label=label, below=below)
    return files  # noqa: RET504  after the nursery: only then was the blob verified


async def convert_file(shop: Workshop, name: str, file: Path, step: Step, *, label: str) -> LayerFiles:
    """Convert a local tar; see ``convert_blob``."""
    ahead = ReadAhead(HashedPieces(_file_pieces(file, step)))
    return await _convert_stream(shop, name, tar_feed, ahead, label=label)


async def convert_tree(shop: Workshop, name: str, feed: TreeFeed) -> LayerFiles:
    """Convert what ``feed`` finds by itself; see ``convert_blob``."""
    return await _in_thread(lambda: _convert(shop, name, lambda b: feed(b, _heartbeat()), NOTHING_BELOW))


async def _convert_stream(
    shop: Workshop,
    name: str,
    feed: StreamFeed,
    ahead: ReadAhead,
    *,
    label: str,
    below: BelowLayer = NOTHING_BELOW,
) -> LayerFiles:
    def work() -> LayerFiles:
        with _blaming(label):
            return _convert(shop, name, lambda builder: feed(builder, PlainStream(ahead)), below)

    made: list[LayerFiles] = []

    async def build() -> None:
        try:
            made.append(await _in_thread(work))
        finally:
            ahead.close()

    # Both beside this task, not in it: Ctrl-C is told to this one, which must be able to hear it.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_in_thread, ahead.run)
        nursery.start_soon(build)
    return made[0]


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, limiter=trio.CapacityLimiter(1))


def check_diff_id(files: LayerFiles, expected: Digest, layer: Digest) -> None:
    """Compare a layer's diffID with what the image's config says.

    Raises:
        IntegrityError: they differ.
    """
    if files.diff_id != expected:
        raise IntegrityError(
            f"layer {layer} unpacks to {files.diff_id}, but the image's config says {expected}"
        )


def warn_of_left_out(left_out: LeftOut, what: str) -> None:
    """Say which attributes ``what`` was converted without, if there were any."""
    if left_out.overlay:
        log.warning(
            "%s: %d trusted.overlay.* attributes left out: they would steer overlayfs", what, left_out.overlay
        )
    if left_out.text:
        log.warning(
            "%s: %d ACLs and SELinux labels in GNU tar's own form left out, as all that unpacks images does:"
            " pack it with xattrs instead (tar --xattrs --xattrs-include='*', without --acls and --selinux)",
            what,
            left_out.text,
        )


def _convert(
    shop: Workshop, name: str, feed: Callable[[LayerBuilder], bytes], below: BelowLayer
) -> LayerFiles:
    index, chunks = shop.folder / f"{name}.index", shop.folder / f"{name}.chunks"
    with _storage_errors(shop.folder), index.open("wb") as index_file, chunks.open("wb") as chunk_file:
        scratch = Scratch(shop.folder)
        known = shop.new_known(scratch)
        writer = ChunkWriter(chunk_file, shop.executor, known, shop.options, scratch)
        try:
            builder = LayerBuilder(writer, known, shop.options, scratch)
            diff_id = feed(builder)
            scratch.unmap_pages()  # others of the run need the room while this one waits
            asks = builder.needs_below
            tree = below.wait() if asks else None
            finished = builder.finish(index_file, diff_id, tree, below.chain_id)
        finally:
            writer.close()
    return LayerFiles(finished, Digest("sha256:" + diff_id.hex()), index, chunks, builder.left_out, asks)


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
def _blaming(label: str) -> Iterator[None]:
    """What is wrong in a layer is damage, whose kind ever the error is, and the layer is named in it."""
    try:
        yield
    except (IntegrityError, UsageError) as e:
        raise IntegrityError(f"{label}: {e}") from e


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        if e.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise StorageError(f"no space left in {folder}: free some, or set cache_dir elsewhere") from e
        raise StorageError(f"cannot write to {folder}: {e.strerror or e}") from e
