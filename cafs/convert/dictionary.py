"""Chunks of other images that a conversion may refer to instead of storing them (``--chunk-dict``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cafs.convert.known_chunks import KnownChunks
from cafs.convert.memory import ConvertedLayer
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef
from cafs.errors import NotFoundError
from cafs.fetch.open_image import OpenImage
from cafs.index.scratch import Scratch
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import LAYER_CHUNKS
from cafs.oci.repository import Repository, copy_blob

_KEY_DIGITS = 16


class Dictionary:
    """The chunks of some converted images, and where their blobs can be had."""

    def __init__(self, images: Sequence[OpenImage]) -> None:
        self._images = images
        self._origins: dict[BlobRef, Repository] = {
            blob: image.repository for image in images for layer in image.layers for blob in layer.index.blobs
        }

    @property
    def key(self) -> str:
        """Part of the options that a layer's bytes depend on; empty without images."""
        if not self._images:
            return ""
        named = " ".join(
            f"{layer.diff_id}@{blob.digest}"
            for image in self._images
            for layer in image.layers
            for blob in layer.index.blobs
        )
        return "-dict-" + sha256_digest(named.encode()).partition(":")[2][:_KEY_DIGITS]

    def known_chunks(self, scratch: Scratch) -> KnownChunks:
        """A fresh table that holds the dictionary's chunks, for one layer to add its own to."""
        known = KnownChunks(scratch)
        for image in self._images:
            for layer in image.layers:
                table, blobs = layer.index.table, layer.index.blobs
                for row in range(len(table)):
                    ref = table.row(row)
                    if known.find(ref.digest) is None:
                        number = known.blob_number(blobs[ref.blob])
                        known.add(ref.digest, number, ref.offset, ref.frame_bytes, ref.codec)
        return known

    def origin(self, blob: BlobRef) -> Repository | None:
        """Where a blob of the dictionary lies."""
        return self._origins.get(blob)


async def bring_dictionary(
    dictionary: Dictionary, layers: Sequence[ConvertedLayer], target: Repository, scratch: Path
) -> list[Descriptor]:
    """Bring the chunk blobs of other images that ``layers`` refer to into ``target``, beside their own.

    Args:
        dictionary: Where they can be had.
        layers: Of one artifact; their own blobs are in ``target``.
        target: Mounts read all from there, and its garbage collection keeps what the artifact names.
        scratch: For what cannot be brought over directly.

    Returns:
        The blobs, for the artifact to name.

    Raises:
        NotFoundError: one is nowhere any more.
        CafsError: as ``copy_blob``.
    """
    own = {layer.layer.chunks.blob for layer in layers if layer.layer.chunks}
    needed = {blob for layer in layers for blob in layer.other_blobs} - own
    ordered = sorted(needed, key=lambda blob: blob.digest)
    for blob in ordered:
        origin = dictionary.origin(blob)
        if origin is not None:
            await copy_blob(origin, target, blob, scratch)
        elif not await target.has_blob(blob):
            raise NotFoundError(f"chunk blob {blob.digest} is no longer in {target.name}")
    return [Descriptor(blob.digest, blob.size, LAYER_CHUNKS) for blob in ordered]
