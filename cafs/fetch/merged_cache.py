"""Merged indexes on the local disk: ``CACHE/index/HEX``, beside the layer indexes that they are made from.

Used by mounts of images of several layers. This machine makes them itself from indexes that were checked, so
nobody else's word is taken for one; each opening verifies that it is still what was made. What was not opened
for long goes when space is short, as layer indexes do: it is made again when it is wanted.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cafs.errors import IntegrityError, NotFoundError, StorageError
from cafs.fetch.open_image import OpenImage
from cafs.index.layer_index import LayerIndex
from cafs.index.merged_index import MergedIndex, merged_name
from cafs.oci.durable import write_beside
from cafs.oci.in_thread import in_thread

if TYPE_CHECKING:
    from cafs.fetch.check_process import CheckProcess

log = logging.getLogger(__name__)


def needs_merging(image: OpenImage) -> bool:
    """Whether the image's tree is another than that of its one layer."""
    return len(image.layers) != 1 or image.layers[0].index.header.hides


class MergedCache:
    """A directory that holds merged indexes among others."""

    def __init__(self, folder: Path, checker: CheckProcess | None = None) -> None:
        """
        Args:
            folder: The directory, which is there.
            checker: Makes them in a process of its own; None: a worker thread does.
        """
        self._folder = folder
        self._checker = checker

    def open_made(self, image: OpenImage) -> MergedIndex | None:
        """That of the image, if it was made before."""
        path = self._path(image)
        try:
            merged = MergedIndex.open(path)
            merged.verify()
        except NotFoundError:
            return None
        except IntegrityError as e:
            log.warning("making it again: %s", e)
            path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # a cache that may only be read is as good
            os.utime(path)
        return merged

    async def open(self, image: OpenImage) -> MergedIndex:
        """That of the image.

        Raises:
            UsageError: all layers together are over EROFS's limit of 16 TiB.
            StorageError: it cannot be written.
        """
        return await in_thread(self._open_or_make, image)

    def _open_or_make(self, image: OpenImage) -> MergedIndex:
        return self.open_made(image) or self._make(image)

    def _make(self, image: OpenImage) -> MergedIndex:
        path = self._path(image)
        try:
            # Not made durable: what a crash leaves of it does not match its digest.
            with write_beside(path, durable=False) as descriptor:
                self._write(descriptor, [layer.index for layer in image.layers])
        except OSError as e:
            raise StorageError(
                f"cannot write merged indexes into {self._folder}: {e.strerror}"
                " (cache_dir has to be writable, with room)"
            ) from e
        return MergedIndex.open(path)

    def _write(self, descriptor: int, layers: Sequence[LayerIndex]) -> None:
        # Imported here: who finds everything in the cache must wait neither for trio nor for numpy.
        from trio.from_thread import run  # noqa: PLC0415

        if self._checker is None or not run(self._checker.merge, descriptor, [i.path for i in layers]):
            from cafs.index.merge_layers import write_merged  # noqa: PLC0415

            os.ftruncate(descriptor, 0)
            write_merged(descriptor, layers)

    def _path(self, image: OpenImage) -> Path:
        return self._folder / merged_name(layer.index_digest for layer in image.known.artifact.layers)
