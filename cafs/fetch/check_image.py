"""Checks a whole converted image where it is stored; for ``cafs check``.

Every index is fetched anew into a scratch directory (whatever this machine has cached says nothing of
the registry), verified by digest and walked wholly; then every chunk is read and verified.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trio

from cafs.core.progress import Progress
from cafs.core.settings import Settings
from cafs.errors import IntegrityError, NotFoundError
from cafs.fetch.check_chunks import Checked, Damage, check_chunks
from cafs.fetch.index_cache import IndexCache
from cafs.fetch.open_image import OpenLayer
from cafs.oci.artifact import IndexArtifact
from cafs.oci.artifact_lookup import find_artifact
from cafs.oci.descriptor import Platform
from cafs.oci.image import find_image
from cafs.oci.open_source import open_repository
from cafs.oci.reference import parse_reference
from cafs.oci.repository import Repository
from cafs.oci.trust import load_trust_policy

_CLOSE_DEADLINE_S = 5


async def check_image(
    source: str, settings: Settings, platform: Platform | None, scratch: Path, progress: Progress
) -> Checked:
    """Read and verify everything of an image that can be read.

    Args:
        source: As on the command line.
        settings: For connections and retries; its cache is not used.
        platform: Which image of a multi-platform one; None: this machine's.
        scratch: An empty directory for the indexes.
        progress: Told of each index and blob.

    Raises:
        UsageError, NotFoundError: there is no such image, or it is not converted.
        UntrustedError: no artifact of it is believed.
        IntegrityError: its manifests are damaged.
        RemoteError, StorageError: a source failed in a way that says nothing of the bytes.
    """
    reference = parse_reference(source)
    repository = open_repository(reference, settings)
    layers: dict[int, OpenLayer] = {}
    try:
        image = await find_image(repository, reference.selector, platform)
        artifact = (await find_artifact(repository, image, await load_trust_policy(settings))).artifact
        damages = await _open_indexes(repository, artifact, scratch, progress, layers)
        checked = await check_chunks(layers, progress, settings.retries)
        return replace(checked, layers=len(artifact.layers), damages=(*damages, *checked.damages))
    finally:
        for layer in layers.values():
            layer.index.close()
        with trio.move_on_after(_CLOSE_DEADLINE_S) as scope:
            scope.shield = True
            await repository.aclose()


async def _open_indexes(
    repository: Repository,
    artifact: IndexArtifact,
    scratch: Path,
    progress: Progress,
    layers: dict[int, OpenLayer],
) -> list[Damage]:
    """Open all indexes that are sound into ``layers``; what is wrong with the others."""
    cache, damages = IndexCache(scratch), []
    step = progress.step("layer indexes", total=sum(layer.index.size for layer in artifact.layers))
    try:
        for number, layer in enumerate(artifact.layers):
            try:
                index = await cache.open(repository, layer)
            except (IntegrityError, NotFoundError) as e:
                damages.append(Damage(layer.index.digest, 0, str(e), number))
            else:
                layers[number] = OpenLayer(index, layer.layer_digest, layer.diff_id, repository)
            step.advance(layer.index.size)
    finally:
        step.finish()
    return damages
