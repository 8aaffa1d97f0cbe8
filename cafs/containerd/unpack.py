"""From layers to snapshots, lowest first, as containerd's own unpacker does it.

Each layer is offered to the snapshotter with the labels by which it can find the layer's index. Either it
answers that the snapshot is there, and the layer's bytes are not needed here; or it gives mounts, and it
is downloaded and unpacked. From the first such layer on all later ones are fetched ahead; one that the
snapshotter has after all is given up.

Source: containerd 1.6, ``unpacker.go``.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import trio

from cafs.containerd.connection import Connection
from cafs.containerd.content import Content
from cafs.containerd.diff import apply_layer
from cafs.containerd.documents import ImageDocuments
from cafs.containerd.downloads import Downloads
from cafs.containerd.labels import UNCOMPRESSED, layer_labels
from cafs.containerd.snapshots import Prepared, Snapshots
from cafs.errors import CafsError, NotFoundError

_ATTEMPTS = 3
"""A layer that was here for another image may be collected with it, between two calls of ours."""
_REMOVE_S = 10


@dataclass(frozen=True, slots=True)
class Unpacker:
    """Unpacks one image."""

    connection: Connection
    snapshots: Snapshots
    content: Content
    downloads: Downloads
    image: str
    """The image's name, which the snapshotter is told."""
    documents: ImageDocuments
    lease: str

    async def run(self) -> list[int]:
        """Make the snapshots of all layers; answers the positions of those that were unpacked here.

        Raises:
            CafsError: a layer cannot be fetched or unpacked.
        """
        unpacked: set[int] = set()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._all_layers(unpacked)
                break
            except NotFoundError:
                if attempt == _ATTEMPTS:
                    raise
        return sorted(unpacked)

    async def _all_layers(self, unpacked: set[int]) -> None:
        chain = self.documents.chain_ids
        if not chain or await self.snapshots.exists(chain[-1]):
            return
        for at in range(len(chain)):
            labels = self._labels(at)
            key = f"extract-{secrets.token_hex(6)} {chain[at]}"
            prepared = await self.snapshots.prepare(key, chain[at - 1] if at else "", labels)
            if prepared is None:
                self.downloads.forget(self.documents.layers[at])
            else:
                await self._unpack(at, prepared, labels)
                unpacked.add(at)
        if not await self.snapshots.exists(chain[-1]):
            raise NotFoundError(f"containerd: snapshot {chain[-1]} is said to be there, and is not")

    def _labels(self, at: int) -> dict[str, str]:
        documents = self.documents
        digest = documents.manifest.descriptor.digest
        return layer_labels(self.image, digest, documents.layers, at, documents.chain_ids[at])

    async def _unpack(self, at: int, prepared: Prepared, labels: dict[str, str]) -> None:
        documents = self.documents
        layer, diff_id = documents.layers[at], documents.diff_ids[at]
        try:
            for later in documents.layers[at:]:
                self.downloads.start(later)
            await self.downloads.wait(layer)
            await apply_layer(self.connection, layer, prepared.mounts, diff_id, self.lease)
            await self.snapshots.commit(documents.chain_ids[at], prepared.key, labels)
        except BaseException:
            # Where this fails, the snapshot ends with the lease.
            with trio.move_on_after(_REMOVE_S, shield=True):
                await self._remove(prepared)
            raise
        # Now that it was found to be so.
        await self.content.add_labels(layer, {UNCOMPRESSED: diff_id})

    async def _remove(self, prepared: Prepared) -> None:
        try:
            await self.snapshots.remove(prepared.key)
        except CafsError:
            return
