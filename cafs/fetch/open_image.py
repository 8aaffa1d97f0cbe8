"""From SOURCE to opened layer indexes: what every command that looks into a converted image begins with.

What is asked of the registry:
- SOURCE pinned by digest and opened before: nothing. (A newer conversion of it is then not looked for.)
- else: the tag, the artifact, and the indexes that are not cached.
- a registry that cannot be reached: what SOURCE was at its last opening, with a warning that says so.
An OCI layout or archive is always looked at anew.

Trio is loaded by who needs it: a mount's first answers (``cafs.node.first_answers``) are given before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from cafs.core.digest import Digest
from cafs.core.settings import Settings
from cafs.core.source import BlobSource
from cafs.errors import AuthError, CafsError, NotFoundError, RemoteError, UntrustedError
from cafs.fetch.index_cache import IndexCache
from cafs.fetch.known_images import KnownImage, KnownImages
from cafs.index.layer_index import LayerIndex
from cafs.oci.artifact import ArtifactLayer
from cafs.oci.artifact_lookup import find_artifact
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import find_image, host_platform
from cafs.oci.in_thread import in_thread
from cafs.oci.open_source import open_repository
from cafs.oci.reference import Reference, RegistryReference, parse_reference
from cafs.oci.repository import Repository
from cafs.oci.trust import TrustPolicy, check_trust, load_trust_policy

if TYPE_CHECKING:
    from cafs.fetch.check_process import CheckProcess

_INDEXES_AT_ONCE = 6
_CLOSE_DEADLINE_S = 5

log = logging.getLogger(__name__)

Resolved = Callable[[Repository, Descriptor], None]


@dataclass(frozen=True, slots=True)
class OpenLayer:
    """One layer, ready to be read."""

    index: LayerIndex
    layer_digest: Digest
    diff_id: Digest
    source: BlobSource
    """Where its chunk blobs are."""


class OpenImage(NamedTuple):
    """A converted image with its indexes open. An async context manager; leaving closes everything."""

    name: str
    """For messages: where it came from, never a credential."""
    manifest_digest: Digest
    """Of the image's manifest; of the artifact's own where it was made without an image."""
    layers: tuple[OpenLayer, ...]
    """Lowest first, as in the image's manifest."""
    repository: Repository
    known: KnownImage
    """Which artifact it is, and whether the image itself names it."""

    def check_files(self) -> None:
        """For whoever shows its files.

        Raises:
            NotFoundError: it has no layers, as images that only carry a configuration.
        """
        if not self.layers:
            raise NotFoundError(f"{self.name} has no layers, so there are no files in it")

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


class Watcher(Protocol):
    """Sees an image while it is being opened, so that its bytes can be fetched meanwhile."""

    @property
    def checker(self) -> CheckProcess | None:
        """Checks the indexes that are fetched; None: a worker thread does."""
        ...

    def resolved(self, repository: Repository, image: Descriptor) -> None:
        """The name means this manifest; its artifact is looked for next."""
        ...

    def found(self, repository: Repository, known: KnownImage) -> None:
        """This it is; its indexes are opened next."""
        ...

    def opened(self, layer: ArtifactLayer, index: LayerIndex, was_fetched: bool) -> None:
        """An index is here, but perhaps not checked yet; see ``IndexCache.open``."""
        ...


async def open_image(
    source: str, settings: Settings, platform: Platform | None = None, watcher: Watcher | None = None
) -> OpenImage:
    """Open a converted image.

    Args:
        source: As on the command line.
        platform: Which image of a multi-platform one; None: this machine's.
        watcher: Told of every step.

    Raises:
        UsageError: SOURCE cannot be understood or is no image.
        NotFoundError: there is no such image, or it is not converted.
        RemoteError, StorageError, IntegrityError: as they say.
    """
    reference = parse_reference(source)
    repository = open_repository(reference, settings)
    try:
        resolved = watcher.resolved if watcher is not None else None
        known = await find_converted(repository, reference, settings, platform, resolved=resolved)
        if watcher is not None:
            watcher.found(repository, known)
        layers = await open_layers(repository, settings, known, watcher)
    except BaseException:
        await _close_shielded(repository)  # noqa: ASYNC102 - shielded, within a time limit, in there
        raise
    return OpenImage(str(reference), known.image.digest, layers, repository, known)


async def find_converted(
    repository: Repository,
    reference: Reference,
    settings: Settings,
    platform: Platform | None = None,
    *,
    remember: bool = True,
    resolved: Resolved | None = None,
) -> KnownImage:
    """The image and the artifact that ``reference``, which lies in ``repository``, means now.

    Args:
        repository: Where it lies.
        reference: Its name.
        settings: Whom to trust, and where what was found is remembered.
        platform: As ``find_image`` takes it.
        remember: Write it down for the next time; False: the caller does, by ``remember_converted``, when
            nobody waits any more.
        resolved: Called as soon as the manifest is known, unless nothing has to be asked for it.

    Raises:
        NotFoundError: there is no such image, or it is not converted.
        UntrustedError: it is, but the policy of the settings believes no artifact of it.
        RemoteError, StorageError, IntegrityError: as they say.
    """
    policy = await load_trust_policy(settings)
    policy.check_repository(repository.name)
    if not isinstance(reference, RegistryReference):
        return await _ask(repository, reference.selector, platform, policy, resolved)
    memory = KnownImages(settings.cache_dir / "image")
    key = (repository.name, reference.selector, _platform_key(platform))
    remembered = await _still_believed(policy, repository, await in_thread(memory.recall, *key))
    if remembered and reference.digest:
        return remembered
    try:
        found = await _ask(repository, reference.selector, platform, policy, resolved)
    except AuthError:
        raise
    except RemoteError as e:
        if remembered is None:
            raise
        log.warning(
            "using %s, which %s was when it was last opened: %s", remembered.image.digest, reference, e
        )
        return remembered
    if remember and found != remembered:
        await in_thread(memory.remember, *key, found)
    return found


async def remember_converted(
    repository: Repository,
    reference: RegistryReference,
    settings: Settings,
    known: KnownImage,
    platform: Platform | None = None,
) -> None:
    """Write down what ``reference`` means.

    Raises:
        StorageError: the cache cannot be written.
    """
    memory = KnownImages(settings.cache_dir / "image")
    key = (repository.name, reference.selector, _platform_key(platform))
    if await in_thread(memory.recall, *key) != known:
        await in_thread(memory.remember, *key, known)


async def forget_converted(repository: Repository, reference: RegistryReference, settings: Settings) -> None:
    """The artifact that ``find_converted`` knew for this machine has lost blobs: there may be a newer one."""
    memory = KnownImages(settings.cache_dir / "image")
    with suppress(OSError):
        await in_thread(memory.forget, repository.name, reference.selector, _platform_key(None))


def _platform_key(platform: Platform | None) -> str:
    """Two kinds of memory: where no platform was asked for, a lone image may be for another machine."""
    return str(host_platform()) if platform is None else f"only {platform}"


async def _ask(
    repository: Repository,
    selector: str,
    platform: Platform | None,
    policy: TrustPolicy,
    resolved: Resolved | None,
) -> KnownImage:
    image = await find_image(repository, selector, platform)
    if resolved is not None:
        resolved(repository, image.descriptor)
    found = await find_artifact(repository, image, policy)
    return KnownImage(image.descriptor, found.artifact, found.is_bound)


async def _still_believed(
    policy: TrustPolicy, repository: Repository, remembered: KnownImage | None
) -> KnownImage | None:
    """What is remembered, unless the policy has become stricter since."""
    if remembered is None:
        return None
    try:
        await check_trust(policy, repository.name, remembered.artifact, is_bound=remembered.is_bound)
    except UntrustedError as e:
        log.info("not using what was remembered of %s: %s", repository.name, e)
        return None
    return remembered


async def open_layers(
    repository: Repository, settings: Settings, known: KnownImage, watcher: Watcher | None = None
) -> tuple[OpenLayer, ...]:
    """Open every index of an image, several at once; all or none stay open. They are kept on the disk.

    Raises:
        RemoteError, StorageError, IntegrityError, NotFoundError: as ``IndexCache.open``.
    """
    import trio  # noqa: PLC0415 - see the module's docstring

    from cafs.fetch.local_peer import LocalPeer  # noqa: PLC0415 - the same

    checker = watcher.checker if watcher is not None else None
    peer = LocalPeer.of(settings)
    cache = IndexCache(settings.cache_dir / "index", checker, peer)
    wanted = {layer.index_digest: layer for layer in known.artifact.layers}
    opened: dict[Digest, LayerIndex] = {}
    limit = trio.CapacityLimiter(_INDEXES_AT_ONCE)

    async def open_one(digest: Digest) -> None:
        async with limit:
            early = watcher.opened if watcher is not None else None
            opened[digest] = await cache.open(repository, wanted[digest], early)

    try:
        async with trio.open_nursery() as nursery:
            for digest in wanted:
                nursery.start_soon(open_one, digest)
    except BaseException as e:
        for index in opened.values():
            if watcher is None:  # else it may be prefetching by them until it is told of the error
                index.close()
        if (first := _first_error(e)) is not None:
            raise first from None  # noqa: ASYNC104 - never while cancelled: see _first_error
        raise
    finally:
        peer.close()
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
    import trio  # noqa: PLC0415 - see the module's docstring

    with trio.move_on_after(_CLOSE_DEADLINE_S) as scope:
        scope.shield = True
        await what.aclose()
