"""Attaches to a converted image the profile that is derived from its files (``fetch.derive_profile``).

Reads what it needs of the image from where the conversion has just put it. A profile only hints: whatever
fails here is a line in the log, and the image is converted without one.
"""

from __future__ import annotations

import logging

import trio

from cafs.convert.image import ImageResult, Run
from cafs.core.profile import Profile
from cafs.errors import CafsError
from cafs.fetch.derive_profile import derive_profile
from cafs.fetch.image_files import ImageFiles
from cafs.fetch.image_programs import look_for_entry
from cafs.fetch.limits import FetchLimits
from cafs.fetch.profile_artifact import attach_profile, find_profile
from cafs.fetch.service import ChunkService
from cafs.index.layer_index import LayerIndex
from cafs.oci.descriptor import Descriptor
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)

PATIENCE_S = 120.0
_MEMORY_BYTES = 48 << 20
"""A module's chunks are read once and hold its neighbours."""


async def attach_start_profile(run: Run, target: Repository, image: Descriptor, result: ImageResult) -> None:
    """Derive and attach, unless an image that was converted before has a profile already."""
    try:
        with trio.fail_after(PATIENCE_S):
            if not result.new_layers and await find_profile(target, image) is not None:
                return
            profile = await _derive(run, target, image, result)
            if profile.chunks:
                await attach_profile(target, image, profile)
    except trio.TooSlowError:
        log.warning("no start profile: deriving it took more than %.0f s", PATIENCE_S)
    except CafsError as e:
        log.warning("no start profile: %s", e)


async def _derive(run: Run, target: Repository, image: Descriptor, result: ImageResult) -> Profile:
    entry = await look_for_entry(target, image)
    if not entry.words:
        return Profile((), ())
    indexes: list[LayerIndex] = []
    step = run.progress.step("start profile", None)
    try:
        limits = FetchLimits(memory_cache_bytes=_MEMORY_BYTES)
        async with ChunkService(None, limits) as service:
            for layer in result.layers:
                indexes.append(await run.indexes.open(target, layer.layer))  # noqa: PERF401 - closed if one fails
            readers = [
                service.add_layer(index, [target], layer.layer.diff_id)
                for index, layer in zip(indexes, result.layers, strict=True)
            ]
            files = ImageFiles(list(zip(indexes, readers, strict=True)))
            return await derive_profile(service, files, readers, entry)
    finally:
        step.finish()
        for index in indexes:
            index.close()
