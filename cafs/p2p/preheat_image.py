"""Has an image on this host before anybody pulls or mounts it. See ``Work``.

A converted image that this host's policy believes: its layer indexes, as mounts keep them, and its chunks in
the node's chunk store, brought in the way of a mount that fills itself (``ChunkExchange``): from other hosts
and, each window by its owner, from the registry. Any other image: config and layers as blobs, in the tasks
that this node's proxy serves pulls from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from cafs.core.chunk_ref import ChunkRef
from cafs.core.learning import choose_profile
from cafs.core.profile import Profile, locate
from cafs.core.proxying.routing import private_scope
from cafs.core.source import BlobRef
from cafs.core.swarm.chunk_request import LEAST_URGENT, MAX_ANSWER_BYTES, ChunkWish
from cafs.errors import IntegrityError, NotFoundError, RemoteError, UntrustedError
from cafs.fetch.known_images import KnownImage
from cafs.fetch.open_image import OpenLayer, find_converted, open_layers
from cafs.fetch.profile_artifact import find_profile
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import find_image
from cafs.oci.reference import RegistryReference
from cafs.oci.registry.repository import RegistryRepository
from cafs.p2p.content import Wish
from cafs.p2p.work import Result, Tell, Work

log = logging.getLogger(__name__)

_BATCH_CHUNKS, _BATCH_BYTES = 256, MAX_ANSWER_BYTES // 2
_BATCHES_AT_ONCE, _BLOBS_AT_ONCE = 4, 6
_Batch = tuple[BlobRef, tuple[ChunkRef, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWish:
    """What is to be here of an image."""

    image: RegistryReference
    start_only: bool
    """What a start reads, by its profile: attached, or learned. Fails where the image is not converted."""
    platforms: tuple[Platform, ...]
    """Empty: this host's."""
    priority: int


async def preheat_image(work: Work, wish: ImageWish, tell: Tell) -> Result:
    """Have it here.

    Raises:
        CafsError: not all of it can be had.
    """
    account, result = _Account(tell), Result()
    for platform in wish.platforms or (None,):
        repository = _repository(work, wish)
        try:
            known = await find_converted(repository, wish.image, work.settings, platform)
        except (NotFoundError, UntrustedError):
            if wish.start_only:
                raise
            await _bring_blobs(work, wish, platform, account)
        else:
            await _bring_converted(work, wish, known, account, result)
    return result


def _repository(work: Work, wish: ImageWish) -> RegistryRepository:
    """Asked for anew each time: one that is not is closed after a while."""
    repository = work.repositories.get(wish.image)
    assert isinstance(repository, RegistryRepository)
    return repository


class _Account:
    """How much is to be done, and is."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._done = self._total = 0

    def expect(self, more_bytes: int) -> None:
        self._total += more_bytes
        self._tell(self._done, self._total)

    def note(self, more_bytes: int) -> None:
        self._done = max(0, self._done + more_bytes)  # pieces may be lost again
        self._tell(self._done, self._total)

    def part(self) -> Tell:
        """Tells of one part of it."""
        before = 0

        def tell(done_bytes: int, _total: int) -> None:
            nonlocal before
            self.note(done_bytes - before)
            before = done_bytes

        return tell


async def _bring_converted(
    work: Work, wish: ImageWish, known: KnownImage, account: _Account, result: Result
) -> None:
    repository = _repository(work, wish)
    attached = await _attached(repository, known) if wish.start_only else None
    layers = await open_layers(repository, work.settings, known)
    try:
        profile = None
        if wish.start_only:
            learned = await work.profiles.find(known.image.digest)
            profile = choose_profile(attached, learned, {layer.diff_id for layer in layers})
            _say(result, profile)
        name = f"{wish.image.host}/{wish.image.repository}"
        async with trio.open_nursery() as nursery:
            chunks = _Chunks(work, name, account, nursery)
            batches: list[_Batch] = []
            for layer in {layer.index.path: layer for layer in layers}.values():
                rows = _profile_rows(layer, profile) if wish.start_only else range(len(layer.index.table))
                batches += await trio.to_thread.run_sync(partial(_batches, layer, rows))
            account.expect(sum(ref.frame_bytes for _, refs in batches for ref in refs))
            for blob, refs in dict(batches).items():
                work.exchange.take_part(ChunkWish(blob, name, refs, True, LEAST_URGENT))
            for blob, refs in batches:
                await chunks.begin(blob, refs)
        if chunks.missing:
            raise RemoteError(f"{chunks.missing} chunks came neither from other hosts nor from the registry")
    finally:
        for layer in layers:
            layer.index.close()


async def _attached(repository: RegistryRepository, known: KnownImage) -> Profile | None:
    """As mounts find it; but a registry that fails is no image without one: the job may be tried again."""
    try:
        return await find_profile(repository, known.image)
    except IntegrityError as e:
        log.warning("the profile of %s is of no use: %s", known.image.digest, e)
        return None


def _say(result: Result, profile: Profile | None) -> None:
    """How many chunks a start reads, of all platforms; or that nobody knows."""
    result["chunks"] = result.get("chunks", 0) + len(profile.chunks if profile else ())
    if not profile:
        result["note"] = "no start profile is attached or was learned: only the layer indexes are here"


def _profile_rows(layer: OpenLayer, profile: Profile | None) -> Sequence[int]:
    if profile is None:
        return ()
    return list(locate(layer.index.table, profile.of_layer(layer.diff_id)).values())


def _batches(layer: OpenLayer, rows: Sequence[int]) -> list[_Batch]:
    """The rows' chunks, each once, in requests: of one blob, in its order."""
    found = {ref.digest: ref for ref in map(layer.index.table.row, rows)}
    by_blob: dict[int, list[ChunkRef]] = {}
    for ref in found.values():
        by_blob.setdefault(ref.blob, []).append(ref)
    return [
        (layer.index.blobs[number], batch)
        for number, refs in by_blob.items()
        for batch in _cut(sorted(refs, key=lambda ref: ref.offset))
    ]


def _cut(refs: Sequence[ChunkRef]) -> Iterator[tuple[ChunkRef, ...]]:
    batch: list[ChunkRef] = []
    size = 0
    for ref in refs:
        if batch and (len(batch) >= _BATCH_CHUNKS or size + ref.frame_bytes > _BATCH_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(ref)
        size += ref.frame_bytes
    if batch:
        yield tuple(batch)


class _Chunks:
    """Brings an image's batches of chunks, some at a time, whichever layers they are of."""

    def __init__(self, work: Work, repository: str, account: _Account, nursery: trio.Nursery) -> None:
        self._work = work
        self._repository = repository
        self._account = account
        self._nursery = nursery
        self._room = trio.Semaphore(_BATCHES_AT_ONCE)
        self.missing = 0
        """Chunks that did not come."""

    async def begin(self, blob: BlobRef, refs: tuple[ChunkRef, ...]) -> None:
        """One more batch; waits for room."""
        await self._room.acquire()
        self._nursery.start_soon(self._bring, blob, refs)

    async def _bring(self, blob: BlobRef, refs: tuple[ChunkRef, ...]) -> None:
        try:
            kept = await trio.to_thread.run_sync(self._work.chunks.has, [ref.digest for ref in refs])
            wanted = tuple(ref for ref, here in zip(refs, kept, strict=True) if not here)
            if wanted:
                asked = ChunkWish(blob, self._repository, wanted, True, LEAST_URGENT)
                frames, stored = await self._work.exchange.fill(asked)
                came = [frame is not None or here for frame, here in zip(frames, stored, strict=True)]
                self.missing += came.count(False)
            self._account.note(sum(ref.frame_bytes for ref in refs))
        finally:
            self._room.release()


async def _bring_blobs(work: Work, wish: ImageWish, platform: Platform | None, account: _Account) -> None:
    image = await find_image(_repository(work, wish), wish.image.selector, platform)
    if not image.manifest.is_image:
        raise IntegrityError(f"{wish.image} is no image")
    blobs = {blob.digest: blob for blob in (image.manifest.config, *image.manifest.layers)}
    account.expect(sum(blob.size for blob in blobs.values()))
    limit = trio.CapacityLimiter(_BLOBS_AT_ONCE)

    async def bring(blob: Descriptor) -> None:
        async with limit:
            held = await work.engine.hold(await _blob_wish(work, wish, blob), waits=False)
            try:
                await held.all_here(account.part())
            finally:
                held.release()

    async with trio.open_nursery() as nursery:
        for blob in blobs.values():
            nursery.start_soon(bring, blob)


async def _blob_wish(work: Work, wish: ImageWish, blob: Descriptor) -> Wish:
    """As this node's proxy asks for a client that shows the registry what it wants."""
    repository = _repository(work, wish)
    client = repository.client
    held = await client.authorization(repository.pull_scopes)
    return Wish(
        url=f"{client.base}{repository.path(f'blobs/{blob.digest}')}",
        digest=blob.digest,
        tag=private_scope(client.base, repository.repository) if held is not None else "",
        headers=(("authorization", held),) if held is not None else (),
        priority=wish.priority,
    )
