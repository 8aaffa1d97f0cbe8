"""One run of ``cafs convert``: opens what it needs, converts, and leaves nothing behind but the result."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeGuard

import trio

from cafs.convert.bind import BoundImage, check_bindable, push_bound_image
from cafs.convert.copy_image import Copier
from cafs.convert.dictionary import Dictionary, bring_dictionary, open_dictionary
from cafs.convert.directory import directory_feed
from cafs.convert.image import ImageConversion, ImageResult, Run
from cafs.convert.layer import Workshop, convert_file, convert_tree, warn_of_left_out
from cafs.convert.memory import ConversionMemory
from cafs.convert.opened import opened
from cafs.convert.start_profile import attach_start_profile
from cafs.convert.upload import push_layer
from cafs.convert.workshop import work_folder
from cafs.core.chunking import ChunkingOptions
from cafs.core.progress import Progress
from cafs.core.settings import Settings
from cafs.errors import NotFoundError, UsageError
from cafs.fetch.index_cache import IndexCache
from cafs.oci.artifact import publish_artifact
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import Image, find_image, image_platform, list_images
from cafs.oci.reference import PathReference, Reference, RegistryReference, Transport, parse_reference
from cafs.oci.repository import Repository
from cafs.oci.signature import load_signing_key
from cafs.oci.trust import load_trust_policy, signed_by

_LAYERS_AT_ONCE = 4
"""Each takes some 50 MiB, and all together stay below 400 MiB, however many cores there are: what is mapped
of their tables counts once for all (``cafs.index.scratch``). Their chunks are compressed by all workers all
the same."""
_TREES = frozenset((Transport.DIR, Transport.TAR))
_WRITABLE = "a registry (HOST/REPOSITORY:TAG) or oci:DIR:TAG"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run made."""

    images: list[ImageResult]
    """One for each image."""
    bound: BoundImage | None = None
    """The new image that carries the artifacts, when one was asked for."""


async def convert(
    source: str,
    target: str | None,
    settings: Settings,
    progress: Progress,
    *,
    platform: Platform | None = None,
    dictionaries: Sequence[str] = (),
    sign_key: Path | None = None,
    bound: str | None = None,
) -> Outcome:
    """Convert ``source`` and put the result into ``target``.

    Args:
        source: As on the command line.
        target: Where the artifact goes; None: beside the source.
        platform: Only this image of a multi-platform one; None: all of them.
        dictionaries: Converted images whose chunks may be referred to.
        sign_key: PEM file of the key that signs the artifacts.
        bound: Instead of ``target``: the name of a new image that carries its artifacts.

    Raises:
        UsageError: source and target do not fit together.
        CafsError: as its kinds say; nothing that a reader could find was changed then.
    """
    origin = parse_reference(source)
    named = bound or target
    goal = parse_reference(named) if named else origin
    _check_target(origin, goal, given=named is not None)
    if bound is not None:
        _check_bound(origin, goal, target)
    _check_platform(origin, platform)
    key = await trio.to_thread.run_sync(load_signing_key, sign_key) if sign_key else None
    async with AsyncExitStack() as stack:
        repository = await stack.enter_async_context(opened(goal, settings))
        run = await _start(stack, settings, progress)
        dictionary_for = partial(open_dictionary, stack, dictionaries, settings)
        run = replace(run, key=key, attach=bound is None)
        if key is not None:
            # Whatever others attached is not to be used again under this signature.
            run = replace(run, reusable=signed_by(key.public))
        if _is_tree(origin):
            run = run.with_dictionary(await dictionary_for(None))
            return Outcome([await _convert_tree(run, origin, repository, goal)])
        same = origin == goal
        reader = repository if same else await stack.enter_async_context(opened(origin, settings))
        top = await reader.resolve(origin.selector)
        images = await _images(reader, origin, platform)
        # An image that was chosen of several comes alone: of an index all would have to come.
        whole = top if platform is None else images[0].descriptor
        if bound is not None:
            check_bindable(images, reader)
        elif not same:
            _check_same_image(origin, whole, goal)
        conversions = []
        for image in images:
            wanted = await image_platform(reader, image) if dictionaries else None
            own = run.with_dictionary(await dictionary_for(wanted))
            conversions.append(ImageConversion(own, reader, image, repository))
        if bound is not None:
            return await _bind(run, conversions, reader, repository, _tag(goal))
        for conversion in conversions:
            await conversion.convert()
        if not same:
            await Copier(reader, repository, run.shop.folder, progress).copy(whole, _tag(goal))
        results = []
        for conversion in conversions:
            results.append(await conversion.publish())
            await attach_start_profile(run, repository, conversion.image.descriptor, results[-1])
        return Outcome(results)


def _check_platform(origin: Reference, platform: Platform | None) -> None:
    if platform is not None and _is_tree(origin):
        raise UsageError(f"{origin} is for no platform: leave --platform out")


async def _bind(
    run: Run, conversions: Sequence[ImageConversion], source: Repository, target: Repository, tag: str | None
) -> Outcome:
    """The images of ``source`` as a new one in ``target`` that carries its artifacts."""
    copier, results = Copier(source, target, run.shop.folder, run.progress), []
    for conversion in conversions:
        await copier.copy_blobs(conversion.image.manifest)
        await conversion.convert()
        results.append(await conversion.publish())
    pairs = [(one.image, result.artifact) for one, result in zip(conversions, results, strict=True)]
    new = await push_bound_image(source, target, pairs, tag)
    for result, manifest in zip(results, new.manifests, strict=True):
        await attach_start_profile(run, target, manifest, result)
    return Outcome(results, new)


def _check_bound(origin: Reference, goal: Reference, target: str | None) -> None:
    if target is not None:
        raise UsageError("give either TARGET or --image: the new image holds the artifacts")
    if _is_tree(origin):
        raise UsageError(f"{origin} is no image: --image is for images")
    if origin == goal:
        raise UsageError("--image names SOURCE itself: give the new image a name of its own")
    if goal.digest:
        raise UsageError(f"--image {goal}: a new image gets a tag, its digest is not known yet")


def _check_target(origin: Reference, goal: Reference, *, given: bool) -> None:
    writable = isinstance(goal, RegistryReference) or goal.transport is Transport.OCI
    if not writable and given:
        raise UsageError(f"cannot write to {goal}: TARGET is {_WRITABLE}")
    if not writable:
        raise UsageError(f"{origin} cannot hold the result: name a TARGET, {_WRITABLE}")
    if _is_tree(origin) and goal.digest:
        raise UsageError(f"{goal}: what is made of {origin} gets a tag, its digest is not known yet")


def _check_same_image(origin: Reference, image: Descriptor, goal: Reference) -> None:
    if goal.digest not in {None, image.digest}:
        raise UsageError(f"{goal}: {origin} is {image.digest}, which would come there: give TARGET a tag")


def _is_tree(origin: Reference) -> TypeGuard[PathReference]:
    return isinstance(origin, PathReference) and origin.transport in _TREES


@asynccontextmanager
async def _opened_near(where: str, target: str, settings: Settings) -> AsyncIterator[Repository]:
    """A layout on this machine, or a repository of the target's own registry, which may mount blobs."""
    origin = parse_reference(where)
    is_local = isinstance(origin, PathReference) and origin.path.is_dir()
    if not is_local and where.split("/")[:3] != target.split("/")[:3]:
        raise NotFoundError(f"{where} is not near {target}")
    async with opened(origin, settings) as repository:
        yield repository


async def _start(stack: AsyncExitStack, settings: Settings, progress: Progress) -> Run:
    options = ChunkingOptions()
    workers = settings.convert_workers or len(os.sched_getaffinity(0))
    folder = stack.enter_context(work_folder(settings.cache_dir / "convert"))
    executor = stack.enter_context(ThreadPoolExecutor(workers, thread_name_prefix="compress"))
    none = Dictionary(())
    return Run(
        shop=Workshop(folder, executor, options, none.known_chunks),
        options=options.key,
        dictionary=none,
        memory=ConversionMemory(settings.cache_dir / "converted"),
        indexes=IndexCache(settings.cache_dir / "index"),
        progress=progress,
        layers_at_once=trio.CapacityLimiter(min(workers, _LAYERS_AT_ONCE)),
        open_near=partial(_opened_near, settings=settings),
        reusable=await load_trust_policy(settings),
    )


async def _images(source: Repository, origin: Reference, platform: Platform | None) -> list[Image]:
    if platform is not None:
        return [await find_image(source, origin.selector, platform)]
    return await list_images(source, origin.selector)


def _tag(goal: Reference) -> str | None:
    return goal.tag if isinstance(goal, RegistryReference) else goal.name


def _check_tree(origin: PathReference) -> None:
    path, is_tar = origin.path, origin.transport is Transport.TAR
    if not path.exists():
        raise NotFoundError(f"{origin}: there is no such {'file' if is_tar else 'directory'}")
    if is_tar and not path.is_file():
        hint = f": write dir:{path}" if path.is_dir() else ""
        raise UsageError(f"{origin} is no regular file{hint}")
    if not is_tar and not path.is_dir():
        raise UsageError(f"{origin}: the root must be a directory")


async def _convert_tree(run: Run, origin: PathReference, target: Repository, goal: Reference) -> ImageResult:
    """A directory or a tar: an artifact of one layer that stands alone under the target's tag."""
    path, is_tar = origin.path, origin.transport is Transport.TAR
    _check_tree(origin)
    step = run.progress.step(str(origin), path.stat().st_size if is_tar else None)
    note = "failed"
    try:
        if is_tar:
            files = await convert_file(run.shop, "layer", path, step, label=str(origin))
        else:
            files = await convert_tree(run.shop, "layer", directory_feed(path, step))
        note = ""
    finally:
        step.finish(note)
    warn_of_left_out(files.left_out, str(origin))
    converted = await push_layer(target, files, files.diff_id, run.options, None)
    others = await bring_dictionary(run.dictionary, [converted], target, run.shop.folder)
    artifact = await publish_artifact(target, None, [converted.layer], others, tag=_tag(goal), key=run.key)
    return ImageResult(None, artifact, (converted,), 1)
