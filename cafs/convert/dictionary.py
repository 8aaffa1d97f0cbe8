"""Chunks of other images that a conversion may refer to instead of storing them (``--chunk-dict``)."""

from __future__ import annotations

from collections.abc import Sequence

from cafs.convert.known_chunks import KnownChunks
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef
from cafs.fetch.open_image import OpenImage
from cafs.oci.repository import Repository

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

    def known_chunks(self) -> KnownChunks:
        """A fresh table that holds the dictionary's chunks, for one layer to add its own to."""
        known = KnownChunks()
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
