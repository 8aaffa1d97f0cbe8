"""Brings an image as it is from one repository to another: an artifact needs its subject beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cafs.core.progress import Progress
from cafs.errors import NotFoundError
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Image
from cafs.oci.repository import Repository, copy_blob


async def copy_images(
    source: Repository,
    target: Repository,
    images: Sequence[Image],
    top: Descriptor,
    *,
    tag: str | None,
    scratch: Path,
    progress: Progress,
) -> None:
    """Copy ``images``, and the image index ``top`` when all of it was asked for."""
    for image in images:
        whole = image.descriptor.digest == top.digest
        await _copy_one(source, target, image, tag if whole else None, scratch, progress=progress)
    if all(image.descriptor.digest != top.digest for image in images):
        await target.push_manifest(await source.manifest(top), top.media_type, tag)


async def _copy_one(
    source: Repository,
    target: Repository,
    image: Image,
    tag: str | None,
    scratch: Path,
    *,
    progress: Progress,
) -> None:
    if await _has_image(target, image) and tag is None:
        return
    await copy_blobs(source, target, image, scratch, progress)
    content = await source.manifest(image.descriptor)
    await target.push_manifest(content, image.descriptor.media_type, tag)


async def copy_blobs(
    source: Repository, target: Repository, image: Image, scratch: Path, progress: Progress
) -> None:
    """Copy config and layers of ``image``, without its manifest."""
    manifest = image.manifest
    for blob in dict.fromkeys((manifest.config.blob, *(layer.blob for layer in manifest.layers))):
        step = progress.step(f"copy {blob.digest[7:19]}", blob.size)
        try:
            await copy_blob(source, target, blob, scratch)
            step.advance(blob.size)
        finally:
            step.finish()


async def _has_image(target: Repository, image: Image) -> bool:
    try:
        await target.manifest(image.descriptor)
    except NotFoundError:
        return False
    return True
