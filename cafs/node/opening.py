"""Opening the layers of a mount: the first time from the source, later from what was written down.

Used by ``mount_server`` and ``first_answers``. The first server resolves the reference, brings the indexes.
The servers after it must go on with exactly the same layers, whatever the registry says or does by then, so
they ask nobody: they find the index files under names of the mount's own (hard links in the cache, so that
cleaning the cache does not take them away).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cafs.core.source import BlobSource
from cafs.errors import StorageError
from cafs.fetch.merged_cache import MergedCache, needs_merging
from cafs.fetch.open_here import ElsewhereError, open_image_here
from cafs.fetch.open_image import OpenImage, Watcher, open_image
from cafs.index.layer_index import LayerIndex
from cafs.index.merged_index import MergedIndex
from cafs.node.mount_state import MountDirectory, MountedImage, MountedLayer, MountRequest, remove_tree
from cafs.oci.descriptor import Platform, parse_platform
from cafs.oci.open_source import open_repository
from cafs.oci.reference import parse_reference
from cafs.oci.repository import Repository

if TYPE_CHECKING:
    from cafs.core.profile import Profile
    from cafs.fetch.check_process import CheckProcess

MERGED = "merged"
"""Name of the merged index among the mount's own links."""


@dataclass(frozen=True, slots=True)
class ReadyLayer:
    """One layer that can be served."""

    index: LayerIndex
    source: BlobSource
    diff_id: str


class ReadyImage(NamedTuple):
    """All that a server shows."""

    described: MountedImage
    layers: tuple[ReadyLayer, ...]
    repository: Repository
    merged: MergedIndex | None
    """Where the kernel is shown all layers as one image."""

    def announcement(self, *, is_cold: bool = False) -> dict[str, Any]:
        """What the command that waits for the mount is told; ``is_cold``: its chunks are not here."""
        return {
            "cold": is_cold,
            "image": self.described.name,
            "layers": [layer.diff_id for layer in self.layers],
        }


async def open_layers(
    directory: MountDirectory, request: MountRequest, watcher: Watcher | None = None
) -> ReadyImage:
    """The layers of the mount, lowest first. ``watcher`` sees a first opening.

    Raises:
        CafsError: the image cannot be opened.
    """
    described = directory.read_image()
    if described is None:
        image = await open_image(request.source, request.settings, _platform(request), watcher)
        image.check_files()
        merged = None
        if _is_merged(request, image):
            merged = await _cache(request, watcher.checker if watcher else None).open(image)
        return _write_down(directory, request, image, merged)
    repository = open_repository(parse_reference(request.source), request.settings)
    reopened = [
        ReadyLayer(LayerIndex.open(layer.index), repository, layer.diff_id) for layer in described.layers
    ]
    merged = MergedIndex.open(described.merged) if described.merged else None
    return ReadyImage(described, tuple(reopened), repository, merged)


def open_layers_here(directory: MountDirectory, request: MountRequest) -> ReadyImage:
    """The layers of a new mount, if nobody has to be waited for; their sources cannot be read.

    Raises:
        CafsError: they cannot be opened, or not like this.
    """
    image = open_image_here(request.source, request.settings, _platform(request))
    image.check_files()
    merged = None
    if _is_merged(request, image):
        merged = _cache(request).open_made(image)
        if merged is None:
            raise ElsewhereError("the merged index has to be made")
    return _write_down(directory, request, image, merged)


async def find_image_profile(image: ReadyImage) -> Profile | None:
    """The newest access profile attached to the image, for a server that takes over."""
    from cafs.fetch.profile_artifact import find_profile  # noqa: PLC0415 - nobody waits for it

    descriptor = await image.repository.resolve(image.described.manifest_digest)
    return await find_profile(image.repository, descriptor)


def _platform(request: MountRequest) -> Platform | None:
    return parse_platform(request.platform) if request.platform else None


def _is_merged(request: MountRequest, image: OpenImage) -> bool:
    return request.driver == "erofs" and needs_merging(image)


def _cache(request: MountRequest, checker: CheckProcess | None = None) -> MergedCache:
    return MergedCache(request.settings.cache_dir / "index", checker)


def _write_down(
    directory: MountDirectory, request: MountRequest, image: OpenImage, merged: MergedIndex | None
) -> ReadyImage:
    described = _describe(image, merged, directory.indexes(request.settings))
    directory.write_image(described)
    layers = [ReadyLayer(layer.index, layer.source, layer.diff_id) for layer in image.layers]
    return ReadyImage(described, tuple(layers), image.repository, merged)


def _describe(image: OpenImage, merged: MergedIndex | None, folder: Path) -> MountedImage:
    """Write down what is needed to open the same again, with links of our own to the index files."""
    layers = []
    try:
        remove_tree(folder)
        folder.mkdir(parents=True)
        for number, layer in enumerate(image.layers):
            path = folder / f"{number}.index"
            os.link(layer.index.path, path)
            layers.append(MountedLayer(index=path, layer_digest=layer.layer_digest, diff_id=layer.diff_id))
        if merged is not None:
            os.link(merged.path, folder / MERGED)
    except OSError as e:
        raise StorageError(
            f"cannot keep the layer indexes in {folder}: {e.strerror}"
            " (cache_dir has to be writable, with room)"
        ) from e
    return MountedImage(
        name=image.name,
        manifest_digest=image.manifest_digest,
        layers=tuple(layers),
        merged=None if merged is None else folder / MERGED,
    )
