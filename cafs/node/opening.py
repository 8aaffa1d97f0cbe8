"""Opening the layers of a mount: the first time from the source, later from what was written down.

Used by ``mount_server``. The first server resolves the reference and brings the indexes. The servers after
it must go on with exactly the same layers, whatever the registry says or does by then, so they ask nobody:
they find the index files under names of the mount's own (hard links in the cache, so that cleaning the cache
does not take them away).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cafs.core.profile import Profile
from cafs.core.source import BlobSource
from cafs.errors import StorageError
from cafs.fetch.open_image import OpenImage, open_image
from cafs.fetch.profile_artifact import find_profile
from cafs.index.layer_index import LayerIndex
from cafs.node.mount_state import MountDirectory, MountedImage, MountedLayer, MountRequest
from cafs.oci.descriptor import parse_platform
from cafs.oci.open_source import open_repository
from cafs.oci.reference import parse_reference
from cafs.oci.repository import Repository


@dataclass(frozen=True, slots=True)
class ReadyLayer:
    """One layer that can be served."""

    index: LayerIndex
    source: BlobSource
    diff_id: str


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """All that a server shows."""

    described: MountedImage
    layers: tuple[ReadyLayer, ...]
    repository: Repository


async def open_layers(directory: MountDirectory, request: MountRequest) -> ReadyImage:
    """The layers of the mount, lowest first.

    Raises:
        CafsError: the image cannot be opened.
    """
    described = directory.read_image()
    if described is None:
        platform = parse_platform(request.platform) if request.platform else None
        image = await open_image(request.source, request.settings, platform)
        described = _describe(image, directory.indexes(request.settings))
        layers = [ReadyLayer(layer.index, layer.source, layer.diff_id) for layer in image.layers]
        return ReadyImage(described, tuple(layers), image.repository)
    repository = open_repository(parse_reference(request.source), request.settings)
    reopened = [
        ReadyLayer(LayerIndex.open(layer.index), repository, layer.diff_id) for layer in described.layers
    ]
    return ReadyImage(described, tuple(reopened), repository)


async def find_image_profile(image: ReadyImage) -> Profile | None:
    """The newest access profile attached to the image."""
    descriptor = await image.repository.resolve(image.described.manifest_digest)
    return await find_profile(image.repository, descriptor)


def _describe(image: OpenImage, folder: Path) -> MountedImage:
    """Write down what is needed to open the same again, with links of our own to the index files."""
    layers = []
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for number, layer in enumerate(image.layers):
            path = folder / f"{number}.index"
            os.link(layer.index.path, path)
            layers.append(MountedLayer(index=path, layer_digest=layer.layer_digest, diff_id=layer.diff_id))
    except OSError as e:
        raise StorageError(f"cannot keep the layer indexes in {folder}: {e.strerror}") from e
    return MountedImage(name=image.name, manifest_digest=image.manifest_digest, layers=tuple(layers))
