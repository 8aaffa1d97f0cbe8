"""When prefetching of an image begins: as soon as its layers are there, with its profile.

Used by ``layers``. containerd adds the layers of an image one after the other within moments; an image is
begun when all have come, or when no further one has for a while, and once more when its layers change. An
image without a profile has its programs followed once all of its layers are here. What was learned of
earlier starts is waited for a moment only; when it comes late, the image is begun once more with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from cafs.core.learning import choose_profile
from cafs.core.profile import Profile
from cafs.fetch.image_programs import follow_programs
from cafs.fetch.learned_profiles import MOUNT_PATIENCE_S
from cafs.fetch.prefetch import Prefetch
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.index.layer_index import LayerIndex
from cafs.node.mountd.images import FoundImage
from cafs.node.mountd.state import ImageName

log = logging.getLogger(__name__)

SETTLE_S = 0.3
"""Without a further layer."""

FindProfile = Callable[[FoundImage], Awaitable[Profile | None]]


class _Image:
    """The layers of one image that are shown."""

    def __init__(self) -> None:
        self.indexes: dict[LayerReader, LayerIndex] = {}
        self.changed = trio.Event()
        self.learned: Profile | None = None
        self.asked = trio.Event()
        """Whether something was learned is known, or will not be."""
        self.is_recorded = False
        """The attached profile was recorded, and counts whatever was learned."""

    def note_change(self) -> None:
        """Wake the image's task."""
        self.changed.set()
        self.changed = trio.Event()


class Prefetching:
    """A task for each image that is shown, in the owner's nursery."""

    def __init__(
        self,
        service: ChunkService,
        find_profile: FindProfile,
        mode: Prefetch,
        nursery: trio.Nursery,
        find_learned: FindProfile | None = None,
    ) -> None:
        """
        Args:
            service: Has the layers.
            find_profile: The one that is attached to an image.
            mode: What to prefetch.
            nursery: For everything here.
            find_learned: The one that was learned; None: nothing is.
        """
        self._service = service
        self._find_profile = find_profile
        self._find_learned = find_learned
        self._mode = mode
        self._nursery = nursery
        self._images: dict[ImageName, _Image] = {}

    def note_added(self, image: FoundImage, index: LayerIndex, reader: LayerReader) -> None:
        """A layer of the image is shown."""
        if self._mode is Prefetch.NONE:
            return
        known = self._images.get(image.name)
        if known is None:
            known = self._images[image.name] = _Image()
            self._nursery.start_soon(self._run, image, known)
        if reader not in known.indexes:
            known.indexes[reader] = index
            known.note_change()

    def note_removed(self, reader: LayerReader) -> None:
        """A layer is shown no more."""
        for image in self._images.values():
            if image.indexes.pop(reader, None) is not None:
                image.note_change()

    async def _run(self, image: FoundImage, known: _Image) -> None:
        attached = None
        if self._mode.wants_profile:
            attached = await self._find_profiles(image, known)
        names = {layer.diff_id for layer in image.known.artifact.layers}
        wanted = len({layer.index_digest for layer in image.known.artifact.layers})
        while known.indexes:
            changed = known.changed
            profile = choose_profile(attached, known.learned, names)
            if len(known.indexes) < wanted:
                with trio.move_on_after(SETTLE_S):
                    await changed.wait()
                    continue
            elif self._mode is Prefetch.AUTO and (profile is None or profile.is_derived):
                self._nursery.start_soon(self._follow_programs, image, known)
            scope = self._service.start_prefetch(self._mode, profile, tuple(known.indexes))
            await changed.wait()
            scope.cancel()
        del self._images[image.name]

    async def _find_profiles(self, image: FoundImage, known: _Image) -> Profile | None:
        """The one that is attached; the learned one is found beside it, or soon."""
        if self._find_learned is None:
            return await self._find_profile(image)
        until = trio.current_time() + MOUNT_PATIENCE_S
        self._nursery.start_soon(self._learn, self._find_learned, image, known)
        attached = await self._find_profile(image)
        known.is_recorded = attached is not None and not attached.is_derived
        if not known.is_recorded:
            with trio.move_on_at(until):
                await known.asked.wait()
        return attached

    async def _learn(self, find: FindProfile, image: FoundImage, known: _Image) -> None:
        try:
            known.learned = await find(image)
        except Exception:  # a defect is one hint lost, never a dead mount server
            log.exception("what was learned of %s is not known in an unforeseen way", image.name.image)
        known.asked.set()
        if known.learned is not None and not known.is_recorded:
            known.note_change()

    async def _follow_programs(self, image: FoundImage, known: _Image) -> None:
        by_diff_id = {reader.name: (index, reader) for reader, index in known.indexes.items()}
        layers = [by_diff_id.get(layer.diff_id) for layer in image.known.artifact.layers]
        here = [layer for layer in layers if layer is not None]
        if len(here) == len(layers):
            await follow_programs(self._service.programs, here, image.repository, image.known.image)
