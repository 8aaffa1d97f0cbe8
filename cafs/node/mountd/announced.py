"""Images that somebody is about to pull: layers are shown and profiles fetched before anybody asks for them.

A pull needs a moment before its first layer is asked for (programs load, manifests are read); meanwhile the
look-up, the indexes and the profile's chunks come. An announcement is a hint: it is answered at once, fails
without a word to anybody but the log, and layers that it showed and nobody asked for are taken away again, by
a later server if need be: it is written down with the layer.

Used by ``control``. Tasks run in the owner's nursery.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import trio

from cafs.control_socket.protocol import AddedLayer, AddLayer
from cafs.errors import CafsError, UsageError
from cafs.fetch.known_images import KnownImage
from cafs.node.mountd.layers import ShownLayer
from cafs.oci.reference import RegistryReference, parse_reference

log = logging.getLogger(__name__)

UNCLAIMED_S = 60.0
"""For how long a layer is shown that nobody asks for."""
_AT_ONCE = 16
"""More announcements than this are passed over while so many are being worked on."""

LookUp = Callable[[str, RegistryReference], Awaitable[KnownImage]]
"""What an image's name means now, asked of its registry: ``Images.find_named``."""


class _Layers(Protocol):
    """What is needed of ``layers.Layers``."""

    def __iter__(self) -> Iterator[ShownLayer]: ...

    async def add(self, wanted: AddLayer, *, announced: bool) -> AddedLayer: ...

    async def remove(self, name: str, *, only_unclaimed: bool) -> None: ...


class Announced:
    """All announcements. For use from one trio thread."""

    def __init__(self, look_up: LookUp, layers: _Layers, nursery: trio.Nursery) -> None:
        self._look_up = look_up
        self._layers = layers
        self._nursery = nursery
        self._working: set[str] = set()

    def announce(self, image: str) -> None:
        """Begin, and return at once.

        Raises:
            UsageError: it is no reference into a registry.
        """
        reference = parse_reference(image)
        if not isinstance(reference, RegistryReference):
            raise UsageError(f"{image[:200]} is no image in a registry")
        if image not in self._working and len(self._working) < _AT_ONCE:
            self._working.add(image)
            self._nursery.start_soon(self._prepare, image, reference)

    def resume(self) -> None:
        """Take away in time what was announced to an earlier server."""
        names = {layer.record.name for layer in self._layers if layer.record.unclaimed}
        if names:
            self._nursery.start_soon(self._take_back, names)

    async def _prepare(self, image: str, reference: RegistryReference) -> None:
        shown: set[str] = set()
        try:
            await self._show_all(image, reference, shown)
        except CafsError as e:
            log.info("%s was announced: %s", image, e)
        except Exception:  # a defect is one hint lost, never a dead mount server
            log.exception("the announcement of %s failed in an unforeseen way", image)
        finally:
            self._working.discard(image)
        await self._take_back(shown)

    async def _show_all(self, image: str, reference: RegistryReference, shown: set[str]) -> None:
        known = await self._look_up(image, reference)
        for layer in known.artifact.layers:
            shown.add(layer.index_digest.partition(":")[2])
            wanted = AddLayer(image, known.image.digest, layer.layer_digest)
            await self._layers.add(wanted, announced=True)

    async def _take_back(self, names: set[str]) -> None:
        """Those of them that nobody has asked for after a while."""
        await trio.sleep(UNCLAIMED_S)
        for name in names:
            try:
                await self._layers.remove(name, only_unclaimed=True)
            except CafsError as e:
                log.warning("layer %s, which nobody asked for, stays: %s", name[:12], e)
