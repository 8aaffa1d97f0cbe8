"""``cafs convert --image``: a new image that carries its index artifact, written beside or elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cafs.core.digest import Digest
from cafs.errors import UsageError
from cafs.oci.bound_image import bind_artifact, encode_bound_index
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Image, image_platform
from cafs.oci.media_types import OCI_INDEX, OCI_MANIFEST
from cafs.oci.repository import Repository


@dataclass(frozen=True, slots=True)
class BoundImage:
    """What ``push_bound_image`` wrote."""

    index: Digest
    """Of the new image as a whole."""
    manifests: tuple[Descriptor, ...]
    """Of its images, in the order they were given in."""


def check_bindable(images: Sequence[Image], source: Repository) -> None:
    """Before anything is converted.

    Raises:
        UsageError: something in it is no image.
    """
    for image in images:
        if not image.manifest.is_image:
            raise UsageError(f"{source.name} ({image.descriptor.digest}) is no image: --image is for images")


async def push_bound_image(
    source: Repository,
    target: Repository,
    converted: Sequence[tuple[Image, Descriptor]],
    tag: str | None,
) -> BoundImage:
    """Write the new image: its manifests, then the index, which makes it visible under ``tag``.

    Args:
        source: Has the original manifests.
        target: Has all blobs and the artifacts.
        converted: Each image and its artifact.
    """
    manifests = []
    for image, artifact in converted:
        content = bind_artifact(await source.manifest(image.descriptor), artifact)
        pushed = await target.push_manifest(content, OCI_MANIFEST)
        manifests.append(replace(pushed, platform=await image_platform(source, image)))
    content = encode_bound_index(manifests, [artifact for _, artifact in converted])
    index = await target.push_manifest(content, OCI_INDEX, tag)
    return BoundImage(index.digest, tuple(manifests))
