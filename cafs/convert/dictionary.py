"""Chunks of other images that a conversion may refer to instead of storing them (``--chunk-dict``)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from cafs.convert.known_chunks import KnownChunks
from cafs.convert.memory import ConvertedLayer
from cafs.convert.opened import opened
from cafs.core.digest import sha256_digest
from cafs.core.settings import Settings
from cafs.core.source import BlobRef
from cafs.errors import NotFoundError
from cafs.fetch.open_image import OpenImage, open_image
from cafs.index.scratch import Scratch
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import ImageIndex, choose_platform, load_manifest
from cafs.oci.media_types import LAYER_CHUNKS
from cafs.oci.reference import parse_reference
from cafs.oci.repository import Repository, copy_blob

log = logging.getLogger(__name__)

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


async def open_dictionary(
    stack: AsyncExitStack, names: Sequence[str], settings: Settings, platform: Platform | None
) -> Dictionary:
    """The dictionary for an image: what of other images is for the same platform.

    Args:
        stack: Closes what is opened.
        names: The other images, as on the command line. A lone one is taken whatever it is for.
        settings: How to speak to registries.
        platform: Of the image that is converted; None: unknown, and this machine's is meant.

    Raises:
        NotFoundError: one is not there, or not converted.
        CafsError: as ``open_image``.
    """
    images = []
    for name in names:
        wanted, is_there = await _choose(name, settings, platform)
        if is_there:
            images.append(await stack.enter_async_context(await open_image(name, settings, wanted)))
        else:
            log.warning("--chunk-dict %s has no image for %s: nothing of it is used there", name, wanted)
    return Dictionary(images)


async def _choose(name: str, settings: Settings, platform: Platform | None) -> tuple[Platform | None, bool]:
    """The platform to open ``name`` for, and whether it has an image for that."""
    if platform is None:
        return None, True
    reference = parse_reference(name)
    async with opened(reference, settings) as repository:
        document = await load_manifest(repository, await repository.resolve(reference.selector))
    if not isinstance(document, ImageIndex):
        return None, True
    try:
        choose_platform(document, platform, name)
    except NotFoundError:
        return platform, False
    return platform, True


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
