"""Has the programs of an image followed (``programs``), from its entry point on.

Used by whoever has opened all of an image's layers: ``image_start``, and the mount server of containers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cafs.errors import CafsError, IntegrityError
from cafs.fetch.image_files import ImageFiles
from cafs.fetch.programs import Programs
from cafs.fetch.reader import LayerReader
from cafs.index.layer_index import LayerIndex
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Entry, Manifest, load_config, load_manifest
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)


async def follow_programs(
    programs: Programs,
    layers: Sequence[tuple[LayerIndex, LayerReader]],
    repository: Repository,
    image: Descriptor,
) -> None:
    """Programs say themselves what is read next; the entry point comes first. Raises nothing.

    Args:
        programs: Follows them.
        layers: All of the image's, lowest first.
        repository: Where its configuration is.
        image: Its manifest.
    """
    try:
        files = ImageFiles(layers)
    except IntegrityError:
        return  # who opens it hears why
    programs.follow([reader for _, reader in layers], files)
    for _, place in files.entry(await look_for_entry(repository, image)):
        programs.note_begun(*place)


async def look_for_entry(repository: Repository, image: Descriptor) -> Entry:
    """What the image runs; nothing when it does not say, or is no image."""
    try:
        document = await load_manifest(repository, image)
        if isinstance(document, Manifest) and document.is_image:
            return (await load_config(repository, document)).entry
    except CafsError as e:
        log.info("no entry point: %s", e)
    return Entry((), "", "/")
