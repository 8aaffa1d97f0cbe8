"""The layers that are shown: added, removed, written down, found again by the next server.

Owns the tree of the FUSE session. A layer's name is the digest of its plain index, so one layer is shown once
however many images have it; each image is one more place to fetch it from. What a layer is, is written down
before anybody can see it, and a node id means one layer for the whole session.

Removing: the name goes at once. While the kernel still holds the node (an EROFS that is mounted, in any mount
namespace), it is *hidden*: it answers reads, and is dropped when the kernel lets go of it. The kernel keeps
names that nobody uses any more; one that it looks up in vain it forgets, so it is made to do that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import trio

from cafs.control_socket.protocol import AddedLayer, AddLayer
from cafs.core.log_fields import about
from cafs.errors import CafsError, StorageError
from cafs.fetch.reader import LayerReader
from cafs.fetch.service import ChunkService
from cafs.fuse.flat import LAYERS, FlatTree
from cafs.fuse.holdings import Holdings
from cafs.index.layer_index import LayerIndex
from cafs.node.mountd.errand import have_looked_up
from cafs.node.mountd.images import FoundImage, Images, registry_reference
from cafs.node.mountd.prefetching import Prefetching
from cafs.node.mountd.shared_work import SharedWork
from cafs.node.mountd.starts import Starts
from cafs.node.mountd.state import ImageName, LayerRecord, RunDirectory
from cafs.oci.artifact import ArtifactLayer
from cafs.oci.repositories import Repositories
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_IMAGES = 8
"""Remembered for one layer, the newest: a base layer is in hundreds of images and needs few places."""


@dataclass(slots=True, eq=False)
class ShownLayer:
    """One layer."""

    record: LayerRecord
    index: LayerIndex
    reader: LayerReader

    def describe(self) -> AddedLayer:
        """For who asked for it."""
        return AddedLayer(
            name=self.record.name,
            path=f"{LAYERS.decode()}/{self.record.name}",
            virtual_bytes=self.index.virtual_bytes,
            data_bytes=self.reader.data_bytes,
            hides=self.index.header.hides,
        )


class Layers:
    """All layers of a session. For use from one trio thread; calls may overlap."""

    def __init__(
        self,
        directory: RunDirectory,
        service: ChunkService,
        *,
        images: Images,
        repositories: Repositories,
        prefetching: Prefetching,
        starts: Starts | None,
        holdings: Holdings,
        nursery: trio.Nursery,
    ) -> None:
        self._directory = directory
        self._service = service
        self._images = images
        self._repositories = repositories
        self._prefetching = prefetching
        self._starts = starts
        self._nursery = nursery
        self._shown: dict[str, ShownLayer] = {}
        self._nodes: Iterator[int] = iter(())
        self._changing = trio.Lock()
        self._adding: SharedWork[tuple[str, ImageName, bool], ShownLayer] = SharedWork(nursery)
        self.tree = FlatTree(holdings=holdings, released=self._note_released)

    def __iter__(self) -> Iterator[ShownLayer]:
        return iter(tuple(self._shown.values()))

    def repositories_used(self) -> set[Repository]:
        """Those that layers may be fetched from."""
        return {
            self._repositories.get(registry_reference(image))
            for layer in self._shown.values()
            for image in layer.record.images
        }

    def restore(self) -> None:
        """Show again what an earlier server of this session showed. Reads the disk: before serving."""
        for record in self._directory.read_layers():
            try:
                layer = self._make(record, LayerIndex.open(self._directory.index_of(record.name)))
            except CafsError as e:
                log.error("a layer cannot be shown again, its readers get errors: %s", e)  # noqa: TRY400
                continue
            self.tree.add(record.node, None if record.hidden else record.name, layer.reader)
            if record.hidden:
                self._nursery.start_soon(self._drop_released, record.node)  # told to the one before us
                self._nursery.start_soon(have_looked_up, self._directory.fuse / layer.describe().path)

    def forget_failures(self) -> None:
        """See ``Images``."""
        self._images.forget_failures()

    async def resume_prefetching(self) -> None:
        """Go on with what an earlier server had not finished."""
        for layer in self:
            for name in () if layer.record.hidden else layer.record.images:
                try:
                    self._prefetching.note_added(await self._images.find(name), layer.index, layer.reader)
                except CafsError as e:
                    log.info("nothing more is prefetched: %s %s", e, about(image=name.image))

    async def add(self, wanted: AddLayer, *, announced: bool = False) -> AddedLayer:
        """Show a layer; see ``docs/mountd.md``.

        Args:
            wanted: Which one.
            announced: Nobody asks for it yet; if it is new, it is unclaimed until somebody does.

        Raises:
            CafsError: as ``Images`` does; StorageError: it cannot be written down.
        """
        image = await self._images.find(ImageName(wanted.image, wanted.manifest))
        found = image.layer(wanted)
        name = found.index_digest.partition(":")[2]
        layer = self._shown.get(name)
        if layer is None or _changes(layer.record, image.name, announced=announced):
            key = name, image.name, announced
            layer = await self._adding.do(key, lambda: self._add(name, image, found, announced=announced))
        self._prefetching.note_added(image, layer.index, layer.reader)
        return layer.describe()

    async def remove(self, name: str, *, only_unclaimed: bool = False) -> None:
        """Take a layer away; nothing happens when it is not there.

        Args:
            name: Its name.
            only_unclaimed: It stays if somebody has asked for it.

        Raises:
            StorageError: that cannot be written down.
        """
        async with self._changing:
            layer = self._shown.get(name)
            if layer is None or layer.record.hidden or (only_unclaimed and not layer.record.unclaimed):
                return
            hidden = replace(layer.record, hidden=True)
            if self.tree.is_held(layer.record.node):
                await self._write(lambda: self._directory.write_layer(hidden, None))
            layer.record = hidden
            self.tree.hide(name)
            self._prefetching.note_removed(layer.reader)
            if self._starts is not None:
                self._starts.note_removed(layer.reader)
            if not self.tree.is_held(layer.record.node):
                await self._drop(layer)
            else:
                self._nursery.start_soon(have_looked_up, self._directory.fuse / layer.describe().path)

    async def _add(
        self, name: str, image: FoundImage, found: ArtifactLayer, *, announced: bool
    ) -> ShownLayer:
        """Show it, or note one more image of it, or that somebody asked for it."""
        index = None if name in self._shown else await self._images.open_index(image, found)
        async with self._changing:
            layer = self._shown.get(name)
            if layer is None:
                index = index or await self._images.open_index(image, found)
                return await self._show(name, image, found, index, unclaimed=announced)
            images = (*(other for other in layer.record.images if other != image.name), image.name)
            unclaimed = announced and (layer.record.unclaimed or layer.record.hidden)
            record = replace(layer.record, images=images[-_MAX_IMAGES:], hidden=False, unclaimed=unclaimed)
            await self._write(lambda: self._directory.write_layer(record, None))
            layer.record = record
            layer.reader.add_source(image.repository)
            self.tree.add(record.node, name, layer.reader)
            return layer

    async def _show(
        self, name: str, image: FoundImage, found: ArtifactLayer, index: LayerIndex, *, unclaimed: bool
    ) -> ShownLayer:
        node = await self._write(self._next_node)
        record = LayerRecord(
            name=name,
            node=node,
            layer=found.layer_digest,
            diff_id=found.diff_id,
            images=(image.name,),
            unclaimed=unclaimed,
        )
        await self._write(lambda: self._directory.write_layer(record, index.path))
        layer = self._make(record, index)
        if self._starts is not None:
            self._starts.note_shown(image, layer.reader)
        self.tree.add(node, name, layer.reader)
        log.info("layer shown %s", about(image=image.name.image, layer=found.layer_digest, name=name[:12]))
        return layer

    def _make(self, record: LayerRecord, index: LayerIndex) -> ShownLayer:
        sources = [self._repositories.get(registry_reference(image)) for image in record.images]
        said = about(image=record.images[0].image if record.images else "", layer=record.layer)
        reader = self._service.add_layer(index, list(dict.fromkeys(sources)), record.diff_id, said)
        layer = self._shown[record.name] = ShownLayer(record, index, reader)
        return layer

    async def _drop(self, layer: ShownLayer) -> None:
        """Nothing is left of it. Its index is unmapped with the last reference to it."""
        await self._write(lambda: self._directory.remove_layer(layer.record.name))
        self.tree.drop(layer.record.node)
        del self._shown[layer.record.name]
        self._service.remove_layer(layer.reader)
        log.info("layer gone %s", about(layer=layer.record.layer, name=layer.record.name[:12]))

    def _note_released(self, node: int) -> None:
        self._nursery.start_soon(self._drop_released, node)

    async def _drop_released(self, node: int) -> None:
        async with self._changing:
            for layer in self:
                if layer.record.node == node and layer.record.hidden and not self.tree.is_held(node):
                    try:
                        await self._drop(layer)
                    except StorageError as e:
                        log.warning("a removed layer leaves its record behind: %s", e)

    def _next_node(self) -> int:
        node = next(self._nodes, None)
        if node is None:
            self._nodes = iter(self._directory.reserve_nodes())
            node = next(self._nodes)
        return node

    async def _write(self, work: Callable[[], T]) -> T:
        """Off the trio thread: the run directory may lie on a disk. Only one at a time, see ``_changing``."""
        try:
            return await trio.to_thread.run_sync(work)
        except OSError as e:
            raise StorageError(f"cannot write the mount server's state: {e.strerror}: {e.filename}") from e


def _changes(record: LayerRecord, image: ImageName, *, announced: bool) -> bool:
    """Whether being asked for as a layer of this image changes what is written down."""
    return record.hidden or image not in record.images or (record.unclaimed and not announced)
