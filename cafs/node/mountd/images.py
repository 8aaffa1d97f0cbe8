"""Which artifact an image has, asked once for all its layers, and its indexes brought side by side.

Used by ``layers``. Look-ups are shared: whoever asks for a layer of an image joins the one that is under
way. What was found stays known, since a manifest digest means one image for ever; what failed is remembered
for seconds only, so that the other layers of the image do not wait for the same registry once more each.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

import trio

from cafs.control_socket.protocol import AddLayer
from cafs.core.digest import Digest, sha256_digest
from cafs.core.profile import Profile
from cafs.core.settings import Settings
from cafs.errors import CafsError, DeadlineError, IntegrityError, NotFoundError, RemoteError, UsageError
from cafs.fetch.index_cache import IndexCache
from cafs.fetch.known_images import KnownImage
from cafs.fetch.local_peer import LocalPeer
from cafs.fetch.open_image import find_converted, forget_converted, remember_converted
from cafs.fetch.profile_search import ProfileSearch
from cafs.index.layer_index import LayerIndex
from cafs.node.mountd.shared_work import SharedWork, copy_error
from cafs.node.mountd.state import ImageName
from cafs.oci.artifact import ArtifactLayer
from cafs.oci.descriptor import Descriptor
from cafs.oci.reference import RegistryReference, parse_reference
from cafs.oci.repositories import Repositories
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)

LOOKUP_PATIENCE_S = 5.0
"""containerd waits for us in Prepare, and the ordinary way is open to it."""
LOOKUP_LIMIT_S = 10.0
"""It goes on a little for the next one who asks, and then makes room for another attempt."""
INDEX_PATIENCE_S = 20.0
"""An index of 10 MB takes half a second on 200 Mbit/s."""
_REMEMBER_MISSING_S, _REMEMBER_FAILURE_S = 1.0, 5.0
_MAX_KNOWN = 256
_MAX_SEARCHES = 16
"""Profiles that nobody has asked for yet."""
_SEARCHED_S = 60.0
"""From then on another one may have been attached."""
_INDEXES_AT_ONCE = 6
"""Of one registry: one that is slow keeps no image of another waiting."""
_BRING_S, _SLOWEST_BYTES_PER_S = 60.0, 64 << 10
"""For so long, and a second for each so many bytes, an index is brought that its registry may drip."""


@dataclass(frozen=True, slots=True, eq=False)
class FoundImage:
    """A converted image."""

    name: ImageName
    repository: Repository
    known: KnownImage

    def layer(self, wanted: AddLayer) -> ArtifactLayer:
        """What the artifact holds for this layer.

        Raises:
            NotFoundError: nothing.
            IntegrityError: the chainID, or all the diffIDs, are another image's.
        """
        found: list[ArtifactLayer] = []
        chain = ""
        for layer in self.known.artifact.layers:
            chain = sha256_digest(f"{chain} {layer.diff_id}".encode()) if chain else layer.diff_id
            if layer.layer_digest == wanted.layer:
                if wanted.chain in {None, chain}:
                    return layer
                found.append(layer)
        if found:
            raise IntegrityError(
                f"the index artifact of {self.name.image} was made from other layers:"
                f" none of its chains is {wanted.chain}"
            )
        raise NotFoundError(f"{self.name.image} ({self.name.manifest}) has no layer {wanted.layer}")


class Images:
    """All images that were asked for."""

    def __init__(
        self,
        settings: Settings,
        repositories: Repositories,
        nursery: trio.Nursery,
        peer: LocalPeer | None = None,
        *,
        profiles: bool = True,
    ) -> None:
        """
        Args:
            settings: Of the node.
            repositories: The ways to registries.
            nursery: For everything here.
            peer: This node's, asked for indexes before registries; None: nobody is.
            profiles: They will be asked for.
        """
        self._settings = settings
        self._repositories = repositories
        self._nursery = nursery
        self._cache = IndexCache(settings.cache_dir / "index", peer=peer)
        self._known: OrderedDict[ImageName, FoundImage] = OrderedDict()
        self._failed: dict[ImageName, tuple[float, CafsError]] = {}
        self._lookups: SharedWork[ImageName, FoundImage] = SharedWork(nursery)
        self._indexes: SharedWork[tuple[Repository, Digest], None] = SharedWork(nursery)
        self._profiles = profiles
        self._searches: OrderedDict[Digest, ProfileSearch] = OrderedDict()
        self._bringing: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()
        """By host, while somebody holds or awaits one."""

    async def find(self, name: ImageName) -> FoundImage:
        """The image, from memory, from the disk, or from its registry.

        Raises:
            UsageError: the reference is none into a registry.
            NotFoundError: it is not converted.
            RemoteError, IntegrityError, StorageError: as they say.
        """
        if (known := self._known.get(name)) is not None:
            self._known.move_to_end(name)
            return self._with_open_way(known)
        until, failure = self._failed.get(name, (0.0, None))
        if failure is not None and trio.current_time() < until:
            raise copy_error(failure) from failure
        with trio.move_on_after(LOOKUP_PATIENCE_S):
            return await self._lookups.do(name, lambda: self._look_up(name))
        late = f"the registry of {name.image} did not answer within {LOOKUP_PATIENCE_S:g} s"
        raise self._remember_failure(name, DeadlineError(late))

    async def find_named(self, image: str, reference: RegistryReference) -> KnownImage:
        """What an image's name means now, asked of its registry; ``find`` then need not ask again.

        Raises:
            CafsError: as ``find``.
        """
        repository = self._repositories.get(reference)
        known = await find_converted(
            repository, reference, self._settings, remember=False, resolved=self._resolved
        )
        name = ImageName(image, known.image.digest)
        if name not in self._known:
            self._learn(FoundImage(name, repository, known))
        for each in (reference, registry_reference(name)):
            self._nursery.start_soon(self._remember, repository, each, known)
        return known

    async def _remember(
        self, repository: Repository, reference: RegistryReference, known: KnownImage
    ) -> None:
        try:
            await remember_converted(repository, reference, self._settings, known)
        except CafsError as e:
            log.info("%s will have to be looked up again: %s", reference, e)

    async def open_index(self, image: FoundImage, layer: ArtifactLayer) -> LayerIndex:
        """The layer's index, checked; the caller closes it.

        Raises:
            IntegrityError, StorageError, RemoteError, NotFoundError: it cannot be had.
        """
        with trio.move_on_after(INDEX_PATIENCE_S):
            while True:
                index = await self._cache.open_cached(layer)
                if index is not None:
                    return index
                try:
                    await self._share_bringing(image, layer)
                except NotFoundError:
                    await self._forget(image)  # noqa: ASYNC120 - who is cancelled wants neither
                    raise
        raise DeadlineError(
            f"the layer index {layer.index_digest} of {image.name.image} did not come within"
            f" {INDEX_PATIENCE_S:g} s"
        )

    async def _forget(self, image: FoundImage) -> None:
        """Who asks next hears of the artifact that may have taken this one's place."""
        self._known.pop(image.name, None)
        reference = registry_reference(image.name)
        await forget_converted(image.repository, reference, self._settings)

    def forget_failures(self) -> None:
        """Ask again at once: who has brought credentials does not wait for what failed without them."""
        self._failed.clear()

    async def find_profile(self, image: FoundImage) -> Profile | None:
        """The image's access profile. Failures are none: a profile only hints."""
        search = self._searches.pop(image.known.image.digest, None)
        if search is None or trio.current_time() > search.began_at + _SEARCHED_S:
            search = ProfileSearch(self._nursery, image.repository, image.known.image)
        return await search.result()

    def _resolved(self, repository: Repository, image: Descriptor) -> None:
        """Its profile will be asked for as soon as a layer is shown."""
        if self._profiles:
            self._searches[image.digest] = ProfileSearch(self._nursery, repository, image)
            if len(self._searches) > _MAX_SEARCHES:
                self._searches.popitem(last=False)

    async def _look_up(self, name: ImageName) -> FoundImage:
        reference = registry_reference(name)
        repository = self._repositories.get(reference)
        try:
            with trio.fail_after(LOOKUP_LIMIT_S):
                known = await find_converted(repository, reference, self._settings, resolved=self._resolved)
        except trio.TooSlowError:
            raise DeadlineError(f"the registry of {name.image} is too slow") from None
        except CafsError as e:
            raise self._remember_failure(name, e)  # noqa: B904 - it is the same error
        return self._learn(FoundImage(name, repository, known))

    def _with_open_way(self, image: FoundImage) -> FoundImage:
        """The repository that it was found in is closed by now, if nobody needed it for long."""
        repository = self._repositories.get(registry_reference(image.name))
        if repository is not image.repository:
            image = self._known[image.name] = replace(image, repository=repository)
        return image

    def _learn(self, image: FoundImage) -> FoundImage:
        self._known[image.name] = image
        self._failed.pop(image.name, None)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        self._nursery.start_soon(self._bring_all, image)
        return image

    def _remember_failure(self, name: ImageName, error: CafsError) -> CafsError:
        seconds = _REMEMBER_FAILURE_S if isinstance(error, RemoteError) else _REMEMBER_MISSING_S
        now = trio.current_time()
        self._failed = {key: (until, e) for key, (until, e) in self._failed.items() if until > now}
        self._failed[name] = (now + seconds, error)
        return error

    async def _bring_all(self, image: FoundImage) -> None:
        """Begin to fetch the indexes that are not here, the lowest layer's first."""
        async with trio.open_nursery() as nursery:
            for layer in image.known.artifact.layers:
                nursery.start_soon(self._bring_one, image, layer)

    async def _bring_one(self, image: FoundImage, layer: ArtifactLayer) -> None:
        try:
            if not await trio.to_thread.run_sync(self._cache.holds, layer):
                await self._share_bringing(image, layer)
        except (CafsError, OSError) as e:
            log.debug("the index of layer %s did not come: %s", layer.layer_digest, e)

    async def _share_bringing(self, image: FoundImage, layer: ArtifactLayer) -> None:
        key = image.repository, layer.index_digest
        await self._indexes.do(key, lambda: self._bring(image, layer))

    async def _bring(self, image: FoundImage, layer: ArtifactLayer) -> None:
        host = registry_reference(image.name).host
        limiter = self._bringing.setdefault(host, trio.CapacityLimiter(_INDEXES_AT_ONCE))
        async with limiter:
            try:
                with trio.fail_after(_BRING_S + layer.index.size / _SLOWEST_BYTES_PER_S):
                    (await self._cache.open(image.repository, layer)).close()
            except trio.TooSlowError:
                raise DeadlineError(f"{host} is too slow to bring an index") from None


def registry_reference(name: ImageName) -> RegistryReference:
    """The image in its registry, pinned.

    Raises:
        UsageError: it is none: what comes over the socket names no place on this machine's disk.
    """
    reference = parse_reference(name.image)
    if not isinstance(reference, RegistryReference):
        raise UsageError(f"{name.image[:200]} is no image in a registry")
    return reference._replace(tag=None, digest=name.manifest)
