"""From SOURCE to opened layer indexes: what every command that looks into a converted image begins with.

What is asked of the registry:
- SOURCE pinned by digest and opened before: nothing. (A newer conversion of it is then not looked for.)
- else: the tag, the artifact, and the indexes that are not cached.
- a registry that cannot be reached: what SOURCE was at its last opening, with a warning that says so.
An OCI layout or archive is always looked at anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import trio

from cafs.core.digest import Digest
from cafs.core.settings import Settings
from cafs.core.source import BlobSource
from cafs.errors import AuthError, CafsError, RemoteError
from cafs.fetch.index_cache import IndexCache
from cafs.fetch.known_images import KnownImage, KnownImages
from cafs.index.layer_index import LayerIndex
from cafs.oci.artifact import find_artifact
from cafs.oci.descriptor import Platform
from cafs.oci.image import find_image, host_platform
from cafs.oci.open_source import open_repository
from cafs.oci.reference import Reference, RegistryReference, parse_reference
from cafs.oci.repository import Repository

_INDEXES_AT_ONCE = 6
_CLOSE_DEADLINE_S = 5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenLayer:
    """One layer, ready to be read."""

    index: LayerIndex
    layer_digest: Digest
    diff_id: Digest
    source: BlobSource
    """Where its chunk blobs are."""


@dataclass(frozen=True, slots=True)
class OpenImage:
    """A converted image with its indexes open. An async context manager; leaving closes everything."""

    name: str
    """For messages: where it came from, never a credential."""
    manifest_digest: Digest
    """Of the image's manifest; of the artifact's own where it was made without an image."""
    layers: tuple[OpenLayer, ...]
    """Lowest first, as in the image's manifest."""
    repository: Repository

    async def aclose(self) -> None:
        """Close indexes and connections."""
        for layer in self.layers:
            layer.index.close()
        await self.repository.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _close_shielded(self)  # noqa: ASYNC102 - shielded, within a time limit, in there


async def open_image(source: str, settings: Settings, platform: Platform | None = None) -> OpenImage:
    """Open a converted image.

    Args:
        source: As on the command line.
        platform: Which image of a multi-platform one; None: this machine's.

    Raises:
        UsageError: SOURCE cannot be understood or is no image.
        NotFoundError: there is no such image, or it is not converted.
        RemoteError, StorageError, IntegrityError: as they say.
    """
    reference = parse_reference(source)
    repository = open_repository(reference, settings)
    try:
        known = await _find(repository, reference, settings, platform or host_platform())
        layers = await _open_layers(repository, settings, known)
    except BaseException:
        await _close_shielded(repository)  # noqa: ASYNC102 - shielded, within a time limit, in there
        raise
    return OpenImage(str(reference), known.image.digest, layers, repository)


async def _find(
    repository: Repository, reference: Reference, settings: Settings, platform: Platform
) -> KnownImage:
    """The image and the artifact that ``reference`` means now."""
    if not isinstance(reference, RegistryReference):
        return await _ask(repository, reference.selector, platform)
    memory = KnownImages(settings.cache_dir / "image")
    key = (repository.name, reference.selector, str(platform))
    remembered = await trio.to_thread.run_sync(memory.recall, *key)
    if remembered and reference.digest:
        return remembered
    try:
        found = await _ask(repository, reference.selector, platform)
    except AuthError:
        raise
    except RemoteError as e:
        if remembered is None:
            raise
        log.warning(
            "using %s, which %s was when it was last opened: %s", remembered.image.digest, reference, e
        )
        return remembered
    if found != remembered:
        await trio.to_thread.run_sync(memory.remember, *key, found)
    return found


async def _ask(repository: Repository, selector: str, platform: Platform) -> KnownImage:
    image = await find_image(repository, selector, platform)
    _, artifact = await find_artifact(repository, image)
    return KnownImage(image.descriptor, artifact)


async def _open_layers(
    repository: Repository, settings: Settings, known: KnownImage
) -> tuple[OpenLayer, ...]:
    """Open every index, several at once; all or none stay open."""
    cache = IndexCache(settings.cache_dir / "index")
    wanted = {layer.index_digest: layer for layer in known.artifact.layers}
    opened: dict[Digest, LayerIndex] = {}
    limit = trio.CapacityLimiter(_INDEXES_AT_ONCE)

    async def open_one(digest: Digest) -> None:
        async with limit:
            opened[digest] = await cache.open(repository, wanted[digest])

    try:
        async with trio.open_nursery() as nursery:
            for digest in wanted:
                nursery.start_soon(open_one, digest)
    except BaseException as e:
        for index in opened.values():
            index.close()
        if (first := _first_error(e)) is not None:
            raise first from None  # noqa: ASYNC104 - never while cancelled: see _first_error
        raise
    return tuple(
        OpenLayer(opened[layer.index_digest], layer.layer_digest, layer.diff_id, repository)
        for layer in known.artifact.layers
    )


def _first_error(error: BaseException) -> CafsError | None:
    """One error to tell the user of when layers failed side by side; None when there is something else."""
    errors, others = error.split(CafsError) if isinstance(error, BaseExceptionGroup) else (None, error)
    while isinstance(errors, BaseExceptionGroup):
        first = errors.exceptions[0]
        if isinstance(first, CafsError):
            return None if others else first
        errors = first if isinstance(first, BaseExceptionGroup) else None
    return None


class _Closable(Protocol):
    async def aclose(self) -> None: ...


async def _close_shielded(what: _Closable) -> None:
    """Close also when we are being cancelled, but not for long."""
    with trio.move_on_after(_CLOSE_DEADLINE_S) as scope:
        scope.shield = True
        await what.aclose()
