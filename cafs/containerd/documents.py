"""The documents of an image: index, manifest, config. From containerd's content store where it has them, else
from the registry; always verified. Knows nothing of layers' bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from cafs.containerd.content import Content
from cafs.core.digest import Digest, chain_ids
from cafs.errors import IntegrityError, UsageError
from cafs.oci.blob_check import check_whole
from cafs.oci.descriptor import Descriptor, Platform
from cafs.oci.image import (
    MAX_CONFIG_BYTES,
    ImageIndex,
    Manifest,
    check_platform,
    choose_platform,
    host_platform,
    parse_config,
    parse_manifest,
)
from cafs.oci.media_types import is_layer
from cafs.oci.registry.repository import RegistryRepository

_MAX_INDEX_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Document:
    """One document, with its exact bytes."""

    descriptor: Descriptor
    content: bytes


@dataclass(frozen=True, slots=True)
class ImageDocuments:
    """Everything about an image but its layers' bytes."""

    indexes: tuple[tuple[Document, ImageIndex], ...]
    """From the name's own to the manifest's; empty for an image without."""
    manifest: Document
    config: Document
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[Digest, ...]
    chain_ids: tuple[Digest, ...]

    @property
    def target(self) -> Descriptor:
        """What the image's name points at."""
        return self.indexes[0][0].descriptor if self.indexes else self.manifest.descriptor


class DocumentSource:
    """Reads one image's documents."""

    def __init__(self, repository: RegistryRepository, content: Content) -> None:
        self._repository = repository
        self._content = content

    async def load(self, selector: str, platform: Platform | None, *, known: str | None) -> ImageDocuments:
        """From a tag or digest to one image.

        Args:
            selector: Tag or digest.
            platform: As ``cafs.oci.image.find_image`` takes it.
            known: The digest that containerd has under this name. Then the registry is asked for the digest
                only, which costs less than the document where the two agree.
        """
        if known is None:
            top = Document(*await self._repository.fetch_named(selector))
        else:
            top = await self._manifest(await self._repository.resolve(selector))
        indexes: list[tuple[Document, ImageIndex]] = []
        unproved = platform
        for _ in range(_MAX_INDEX_DEPTH):
            what = f"manifest {top.descriptor.digest} of {self._repository.name}"
            parsed = parse_manifest(top.content, top.descriptor.media_type, what)
            if isinstance(parsed, Manifest):
                return await self._with_config(tuple(indexes), top, parsed, unproved)
            indexes.append((top, parsed))
            chosen = choose_platform(parsed, platform or host_platform(), what)
            unproved = unproved if chosen.platform is None else None
            top = await self._manifest(chosen)
        raise IntegrityError(f"{self._repository.name}: image indexes within image indexes, too deep")

    async def _with_config(
        self,
        indexes: tuple[tuple[Document, ImageIndex], ...],
        top: Document,
        manifest: Manifest,
        unproved: Platform | None,
    ) -> ImageDocuments:
        name = self._repository.name
        if not manifest.is_image:
            raise UsageError(f"{name} is no image: its config is {manifest.config.media_type!r}")
        for layer in manifest.layers:
            if not is_layer(layer.media_type):
                raise IntegrityError(f"{name} has a layer of a kind that is not read: {layer.media_type!r}")
        content = await self._stored(manifest.config)
        if content is None:
            content = await self._repository.fetch_small(manifest.config, MAX_CONFIG_BYTES)
        what = f"image config {manifest.config.digest} of {name}"
        parsed = parse_config(content, what)
        if unproved is not None:
            check_platform(parsed, unproved, name)
        diff_ids = parsed.diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise IntegrityError(
                f"{what} names {len(diff_ids)} layers, the manifest has {len(manifest.layers)}"
            )
        config = Document(manifest.config, content)
        return ImageDocuments(indexes, top, config, manifest.layers, diff_ids, tuple(chain_ids(diff_ids)))

    async def _manifest(self, descriptor: Descriptor) -> Document:
        content = await self._stored(descriptor)
        if content is None:
            content = await self._repository.manifest(descriptor)
        return Document(descriptor, content)

    async def _stored(self, descriptor: Descriptor) -> bytes | None:
        """What containerd has of it. Its store is not believed more than a registry."""
        if descriptor.size > MAX_CONFIG_BYTES:
            raise IntegrityError(f"{descriptor.digest} is declared with {descriptor.size} bytes, too many")
        content = await self._content.read(descriptor)
        return (
            None
            if content is None
            else check_whole(content, descriptor, f"{descriptor.digest} in containerd")
        )
