"""Brings an image as it is from one repository to another: an artifact needs its subject beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cafs.core.progress import Progress
from cafs.errors import IntegrityError, NotFoundError
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import MAX_INDEX_DEPTH, Manifest, load_manifest
from cafs.oci.repository import Repository, copy_blob


@dataclass(frozen=True, slots=True)
class Copier:
    """Copies from ``source`` to ``target``, blobs by way of files in ``scratch``. What is there stays."""

    source: Repository
    target: Repository
    scratch: Path
    progress: Progress

    async def copy(self, top: Descriptor, tag: str | None) -> None:
        """Copy a manifest with its blobs, or an image index with all that it names, attestations too.

        A registry refuses an index that names what it does not have, and a reader may want any of it.

        Raises:
            NotFoundError: some of it is not in the source.
            CafsError: as its kinds say; the tag is as it was then.
        """
        await self._copy(top, tag, MAX_INDEX_DEPTH)

    async def copy_blobs(self, manifest: Manifest) -> None:
        """Copy config and layers, without the manifest."""
        for blob in dict.fromkeys((manifest.config.blob, *(layer.blob for layer in manifest.layers))):
            step = self.progress.step(f"copy {blob.digest[7:19]}", blob.size)
            note = "failed"
            try:
                await copy_blob(self.source, self.target, blob, self.scratch, step.advance)
                note = ""
            finally:
                step.finish(note)

    async def _copy(self, top: Descriptor, tag: str | None, depth: int) -> None:
        if tag is None and await self._is_there(top):
            return
        if not depth:
            raise IntegrityError(
                f"{self.source.name}: image indexes within image indexes, more than can be meant"
            )
        document = await load_manifest(self.source, top)
        if isinstance(document, Manifest):
            await self.copy_blobs(document)
        else:
            for entry in document.manifests:
                await self._copy(entry, None, depth - 1)
        await self.target.push_manifest(await self.source.manifest(top), top.media_type, tag)

    async def _is_there(self, manifest: Descriptor) -> bool:
        """With all that it names: that comes first."""
        try:
            await self.target.manifest(manifest)
        except NotFoundError:
            return False
        return True
