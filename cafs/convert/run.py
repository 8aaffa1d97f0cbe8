"""One run of ``cafs convert``: opens what it needs, converts, and leaves nothing behind but the result."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import trio

from cafs.convert.copy_image import copy_images
from cafs.convert.dictionary import Dictionary
from cafs.convert.directory import directory_feed
from cafs.convert.image import ImageConversion, ImageResult, Run
from cafs.convert.layer import Feed, Workshop, convert_local, tar_feed, warn_of_dropped_xattrs
from cafs.convert.memory import ConversionMemory
from cafs.convert.upload import push_layer
from cafs.convert.workshop import work_folder
from cafs.core.chunking import ChunkingOptions
from cafs.core.progress import Progress
from cafs.core.settings import Settings
from cafs.errors import NotFoundError, UsageError
from cafs.fetch.index_cache import IndexCache
from cafs.fetch.open_image import open_image
from cafs.oci.artifact import publish_artifact
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import Image, find_image, list_images
from cafs.oci.media_types import LAYER_CHUNKS
from cafs.oci.open_source import open_repository
from cafs.oci.reference import PathReference, Reference, RegistryReference, Transport, parse_reference
from cafs.oci.repository import Repository

_WRITABLE = "a registry (HOST/REPOSITORY:TAG) or oci:DIR:TAG"


async def convert(
    source: str,
    target: str | None,
    settings: Settings,
    progress: Progress,
    *,
    platform: Platform | None = None,
    dictionaries: Sequence[str] = (),
) -> list[ImageResult]:
    """Convert ``source`` and put the result into ``target``.

    Args:
        source: As on the command line.
        target: Where the artifact goes; None: beside the source.
        platform: Only this image of a multi-platform one; None: all of them.
        dictionaries: Converted images whose chunks may be referred to.

    Returns:
        A result for each image.

    Raises:
        UsageError: source and target do not fit together.
        CafsError: as its kinds say; nothing that a reader could find was changed then.
    """
    origin = parse_reference(source)
    goal = parse_reference(target) if target else origin
    _check_target(origin, goal, given=target is not None)
    async with AsyncExitStack() as stack:
        repository = await stack.enter_async_context(_opened(goal, settings))
        run = await _start(stack, settings, progress, dictionaries)
        if isinstance(origin, PathReference) and origin.transport in {Transport.DIR, Transport.TAR}:
            return [await _convert_tree(run, origin, repository, goal)]
        same = origin == goal
        reader = repository if same else await stack.enter_async_context(_opened(origin, settings))
        top = await reader.resolve(origin.selector)
        images = await _images(reader, origin, platform)
        if not same:
            scratch, tag = run.shop.folder, _tag(goal)
            await copy_images(reader, repository, images, top, tag=tag, scratch=scratch, progress=progress)
        return [await ImageConversion(run, reader, image, repository).run() for image in images]


def _check_target(origin: Reference, goal: Reference, *, given: bool) -> None:
    writable = isinstance(goal, RegistryReference) or goal.transport is Transport.OCI
    if not writable and given:
        raise UsageError(f"cannot write to {goal}: TARGET is {_WRITABLE}")
    if not writable:
        raise UsageError(f"{origin} cannot hold the result: name a TARGET, {_WRITABLE}")


@asynccontextmanager
async def _opened(reference: Reference, settings: Settings) -> AsyncIterator[Repository]:
    repository = open_repository(reference, settings)
    try:
        yield repository
    finally:
        with trio.move_on_after(5, shield=True):
            await repository.aclose()


@asynccontextmanager
async def _opened_near(where: str, target: str, settings: Settings) -> AsyncIterator[Repository]:
    """A layout on this machine, or a repository of the target's own registry, which may mount blobs."""
    origin = parse_reference(where)
    is_local = isinstance(origin, PathReference) and origin.path.is_dir()
    if not is_local and where.split("/")[:3] != target.split("/")[:3]:
        raise NotFoundError(f"{where} is not near {target}")
    async with _opened(origin, settings) as repository:
        yield repository


async def _start(
    stack: AsyncExitStack, settings: Settings, progress: Progress, dictionaries: Sequence[str]
) -> Run:
    options = ChunkingOptions()
    workers = settings.convert_workers or len(os.sched_getaffinity(0))
    folder = stack.enter_context(work_folder(settings.cache_dir / "convert"))
    executor = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="compress"))
    images = [await stack.enter_async_context(await open_image(name, settings)) for name in dictionaries]
    dictionary = Dictionary(images)
    return Run(
        shop=Workshop(folder, executor, options, dictionary.known_chunks),
        options=options.key + dictionary.key,
        dictionary=dictionary,
        memory=ConversionMemory(settings.cache_dir / "converted"),
        indexes=IndexCache(settings.cache_dir / "index"),
        progress=progress,
        layers_at_once=trio.CapacityLimiter(workers),
        open_near=partial(_opened_near, settings=settings),
    )


async def _images(source: Repository, origin: Reference, platform: Platform | None) -> list[Image]:
    if platform is not None:
        return [await find_image(source, origin.selector, platform)]
    return await list_images(source, origin.selector)


def _tag(goal: Reference) -> str | None:
    return goal.tag if isinstance(goal, RegistryReference) else goal.name


async def _convert_tree(run: Run, origin: PathReference, target: Repository, goal: Reference) -> ImageResult:
    """A directory or a tar: an artifact of one layer that stands alone under the target's tag."""
    path = origin.path
    if not (path.is_dir() if origin.transport is Transport.DIR else path.is_file()):
        raise NotFoundError(
            f"{origin}: there is no such {'directory' if origin.transport is Transport.DIR else 'file'}"
        )
    is_tar = origin.transport is Transport.TAR
    step = run.progress.step(str(origin), path.stat().st_size if is_tar else None)
    note = "failed"
    try:
        feed: Feed = tar_feed if is_tar else directory_feed(path, step)
        files = await convert_local(
            run.shop, "layer", path if is_tar else None, feed, step, label=str(origin) if is_tar else None
        )
        note = ""
    finally:
        step.finish(note)
    warn_of_dropped_xattrs(files, str(origin))
    converted = await push_layer(target, files, files.diff_id, run.options, None)
    others = [Descriptor(blob.digest, blob.size, LAYER_CHUNKS) for blob in converted.other_blobs]
    artifact = await publish_artifact(target, None, [converted.layer], others, tag=_tag(goal))
    return ImageResult(None, artifact.digest, (converted,), 1)
