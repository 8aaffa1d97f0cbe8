"""Prefetching that begins while an image is still being opened.

A link is idle while a mount loads code, checks indexes and waits for the kernel. ``ImageStart`` uses that
time: it watches ``open_image``, has the layers ready in the service as soon as the bytes of their indexes are
verified, looks for the access profile meanwhile, and lets prefetching begin at once. Nothing here delays or
fails an opening.

Runs as tasks in the nursery that it is given; used by the mount server.
"""

from __future__ import annotations

import logging

import trio

from cafs.core.learning import choose_profile
from cafs.core.profile import Profile
from cafs.fetch.check_process import CheckProcess
from cafs.fetch.image_programs import follow_programs
from cafs.fetch.known_images import KnownImage
from cafs.fetch.learned_profiles import MOUNT_PATIENCE_S, LearnedProfiles
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.profile_search import ProfileSearch
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.index.layer_index import LayerIndex
from cafs.oci.artifact import ArtifactLayer
from cafs.oci.descriptor import Descriptor
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)


class ImageStart:
    """One image on its way into a service. A ``Watcher``."""

    def __init__(
        self,
        service: ChunkService,
        mode: Prefetch,
        nursery: trio.Nursery,
        checker: CheckProcess | None = None,
        learned: LearnedProfiles | None = None,
    ) -> None:
        """
        Args:
            service: Gets the layers.
            mode: What to prefetch.
            nursery: Everything here runs in it.
            checker: Checks indexes.
            learned: Asked what was learned of starts; None: nobody is.
        """
        self._learned = learned
        self._checker = checker
        self._service = service
        self._mode = mode
        self._nursery = nursery
        self._repository: Repository | None = None
        self._layers: tuple[ArtifactLayer, ...] = ()
        self._readers: dict[str, LayerReader] = {}
        self._indexes: dict[str, LayerIndex] = {}
        self._complete = trio.Event()
        self._search: ProfileSearch | None = None
        self.is_cold = False
        """An index had to be fetched before the image could be mounted: so will its chunks."""

    @property
    def readers(self) -> list[LayerReader] | None:
        """The image's layers in the service, lowest first; None as long as they are not all there."""
        if not self._complete.is_set():
            return None
        return [self._readers[layer.index_digest] for layer in self._layers]

    @property
    def checker(self) -> CheckProcess | None:
        """See ``Watcher``."""
        return self._checker

    def resolved(self, repository: Repository, image: Descriptor) -> None:
        """See ``Watcher``."""
        if self._mode.wants_profile:
            self._search = ProfileSearch(self._nursery, repository, image)

    def found(self, repository: Repository, known: KnownImage) -> None:
        """See ``Watcher``."""
        self._repository = repository
        self._layers = known.artifact.layers
        self._nursery.start_soon(self._prefetch, repository, known.image)

    def opened(self, layer: ArtifactLayer, index: LayerIndex, was_fetched: bool) -> None:
        """See ``Watcher``."""
        self.is_cold = self.is_cold or was_fetched
        if self._repository is None or layer.index_digest in self._readers:
            return
        self._indexes[layer.index_digest] = index
        self._readers[layer.index_digest] = self._service.add_layer(index, [self._repository], layer.diff_id)
        if all(layer.index_digest in self._readers for layer in self._layers):
            self._complete.set()

    async def _prefetch(self, repository: Repository, image: Descriptor) -> None:
        profile = await self._find_profile(repository, image) if self._mode.wants_profile else None
        await self._complete.wait()
        if self._mode is Prefetch.AUTO and (profile is None or profile.is_derived):
            layers = [
                (self._indexes[layer.index_digest], self._readers[layer.index_digest])
                for layer in self._layers
            ]
            self._nursery.start_soon(follow_programs, self._service.programs, layers, repository, image)
        self._service.start_prefetch(self._mode, profile)

    async def _find_profile(self, repository: Repository, image: Descriptor) -> Profile | None:
        """The one that is attached, or what was learned, if that is told within a moment."""
        learned: list[Profile | None] = [None]
        async with trio.open_nursery() as nursery:
            if self._learned is not None:
                nursery.start_soon(_learn, self._learned, image, learned)
            if self._search is None or self._search.image != image:  # remembered, not resolved
                self._search = ProfileSearch(nursery, repository, image)
            attached = await self._search.result()
            if attached is not None and not attached.is_derived:
                nursery.cancel_scope.cancel()
        return choose_profile(attached, learned[-1], {layer.diff_id for layer in self._layers})


async def _learn(source: LearnedProfiles, image: Descriptor, found: list[Profile | None]) -> None:
    with trio.move_on_after(MOUNT_PATIENCE_S):
        found.append(await source.find(image.digest))
