"""``cafs pull``: an image into containerd, with no more of its bytes than the snapshotter wants.

Owns the order of things; each step is a module beside it. What is made belongs to a lease until the image's
name keeps it, so a pull that fails or is interrupted leaves nothing that containerd would not collect.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from cafs.containerd.announce import image_name
from cafs.containerd.connection import Connection, connect
from cafs.containerd.content import Content
from cafs.containerd.documents import Document, DocumentSource, ImageDocuments
from cafs.containerd.downloads import Downloads
from cafs.containerd.hand_over import hand_over_credentials
from cafs.containerd.images import Images
from cafs.containerd.labels import CRI_IMAGE, index_labels, manifest_labels, snapshot_label, source_label
from cafs.containerd.lease import Lease, lease
from cafs.containerd.snapshots import Snapshots
from cafs.containerd.unpack import Unpacker
from cafs.core.digest import Digest
from cafs.core.progress import Progress
from cafs.core.settings import Settings
from cafs.oci.descriptor import Platform
from cafs.oci.reference import RegistryReference
from cafs.oci.registry.repository import RegistryRepository

_CRI_NAMESPACE = "k8s.io"


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """What to pull, and where to."""

    reference: RegistryReference
    platform: Platform | None
    address: Path
    """containerd's socket."""
    namespace: str
    snapshotter: str
    content: bool
    """Also bring the blobs of layers that nobody needed."""
    mountd: Path | None = None
    """The mount server's socket, which is handed the credentials for the image; None: nobody is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """An image that containerd has."""

    image: str
    """Its name there."""
    digest: Digest
    layers: int
    unpacked_layers: int
    """Those that were downloaded and unpacked; the snapshotter had the others, or found them itself."""
    fetched_bytes: int
    """Of layers' blobs."""
    chain_id: Digest | None


async def pull(request: PullRequest, settings: Settings, progress: Progress) -> Pulled:
    """Pull one image.

    Raises:
        CafsError: the registry, containerd or the snapshotter stood in the way.
    """
    reference = request.reference
    repository = RegistryRepository(reference.host, reference.repository, settings)
    try:
        async with (
            connect(request.address, request.namespace) as connection,
            lease(connection) as held,
        ):
            return await _Pull(request, connection, repository, held, progress).run()
    finally:
        with trio.CancelScope(shield=True):
            await repository.aclose()


class _Pull:
    """One run."""

    def __init__(
        self,
        request: PullRequest,
        connection: Connection,
        repository: RegistryRepository,
        held: Lease,
        progress: Progress,
    ) -> None:
        self._request = request
        self._connection = connection
        self._repository = repository
        self._lease = held
        self._progress = progress
        self._name = image_name(request.reference)
        self._images = Images(connection)
        self._content = Content(connection, held.id)
        self._snapshots = Snapshots(connection, request.snapshotter, held.id)

    async def run(self) -> Pulled:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._lease.make)
            nursery.start_soon(self._snapshots.check)
            if self._request.mountd is not None:
                nursery.start_soon(hand_over_credentials, self._request.reference, self._request.mountd)
            documents = await self._load()
        async with trio.open_nursery() as nursery:
            downloads = Downloads(nursery, self._repository, self._content, self._progress)
            unpacker = Unpacker(
                self._connection,
                self._snapshots,
                self._content,
                downloads,
                self._name,
                documents,
                self._lease.id,
            )
            async with trio.open_nursery() as storing:
                storing.start_soon(self._store_documents, documents)
                unpacked = await unpacker.run()
            await self._name_it(documents)
            if self._request.content:
                await _bring_all(documents, downloads)
        return Pulled(
            image=self._name,
            digest=documents.target.digest,
            layers=len(documents.layers),
            unpacked_layers=len(unpacked),
            fetched_bytes=downloads.fetched_bytes,
            chain_id=documents.chain_ids[-1] if documents.chain_ids else None,
        )

    async def _load(self) -> ImageDocuments:
        known = await self._images.target(self._name)
        source = DocumentSource(self._repository, self._content)
        return await source.load(self._request.reference.selector, self._request.platform, known=known)

    async def _store_documents(self, documents: ImageDocuments) -> None:
        """Index, manifest and config, each with the labels that keep what it names."""
        manifest, config = documents.manifest, documents.config
        config_labels: dict[str, str] = {}
        if documents.chain_ids:
            config_labels = dict([snapshot_label(self._request.snapshotter, documents.chain_ids[-1])])
        async with trio.open_nursery() as nursery:
            for document, index in documents.indexes:
                nursery.start_soon(self._store, document, index_labels(index.manifests))
            labels = manifest_labels(config.descriptor, documents.layers)
            nursery.start_soon(self._store, manifest, labels)
            nursery.start_soon(self._store, config, config_labels)

    async def _store(self, document: Document, labels: dict[str, str]) -> None:
        source = source_label(self._repository.host, self._repository.repository)
        labels = labels | dict([source] if source else [])
        await self._content.write(document.descriptor, document.content, labels)

    async def _name_it(self, documents: ImageDocuments) -> None:
        labels = dict([CRI_IMAGE]) if self._request.namespace == _CRI_NAMESPACE else {}
        await self._images.put(self._name, documents.target, labels)


async def _bring_all(documents: ImageDocuments, downloads: Downloads) -> None:
    for layer in documents.layers:
        downloads.start(layer)
    for layer in documents.layers:
        await downloads.wait(layer)
