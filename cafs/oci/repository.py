"""The one interface to where images lie: a registry's repository, an OCI layout, an archive.

``tests/component/test_repository_conformance.py`` is this contract as code, run against each of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from cafs.core.source import BlobSource
from cafs.errors import IntegrityError
from cafs.oci.descriptor import AnyBlob, Descriptor


class Repository(BlobSource, Protocol):
    """Named manifests and blobs by digest.

    All methods may be called concurrently from one trio thread, may be cancelled at any await, and after
    a failure the repository stays usable. A failed or cancelled push leaves nothing that a reader could
    take for whole. Whatever has a digest is verified before it is handed out, but for ``read_range``
    (see ``BlobSource``). Errors: ``RemoteError`` and its kinds from registries, ``StorageError`` from the
    local disk, ``NotFoundError`` for what is not there, ``IntegrityError`` for bytes that lie.
    """

    async def resolve(self, selector: str) -> Descriptor:
        """The manifest or index that a tag or digest names; "" is the only one of a layout or archive."""
        ...

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """The manifest's bytes, of the declared size and digest."""
        ...

    async def referrers(self, subject: AnyBlob, artifact_type: str) -> list[Descriptor]:
        """Manifests of ``artifact_type`` whose subject is ``subject``; empty when there are none."""
        ...

    def blob(self, blob: AnyBlob) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The whole blob as a stream of pieces, opened on entering.

        The iteration ends normally only when size and digest were right: what was read before is not to
        be believed until then.
        """
        ...

    async def has_blob(self, blob: AnyBlob) -> bool:
        """Whether the blob is there, with this size."""
        ...

    async def push_blob(self, content: Path | bytes, blob: AnyBlob, *, hashed: bool = False) -> None:
        """Store a blob unless it is there already. A file must not change until the call returns, and
        after it only by being unlinked or replaced: a layout may keep a hard link to it.

        Args:
            hashed: The caller made the file and hashed its bytes as it wrote them, so that a layout, which
                keeps that very file, need not read it all once more. Registries verify in any case.
        """
        ...

    async def mount_blob(self, blob: AnyBlob, origin: Repository) -> bool:
        """Take a blob over from ``origin`` without sending its bytes; False when that cannot be."""
        ...

    async def push_manifest(self, content: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """Store a manifest or index under its digest, and under ``tag``. Its blobs must be there."""
        ...

    async def attach(self, content: bytes, media_type: str, subject: AnyBlob) -> Descriptor:
        """Store a manifest that has ``subject``, so that ``referrers`` finds it. Idempotent."""
        ...

    async def aclose(self) -> None:
        """Let connections and files go. Needed once; the repository is not used afterwards."""
        ...


async def read_blob(repository: Repository, blob: AnyBlob, limit: int) -> bytes:
    """A small blob as a whole, verified.

    Raises:
        IntegrityError: it is declared larger than ``limit``, or is not what it was declared.
    """
    if blob.size > limit:
        raise IntegrityError(
            f"blob {blob.digest} of {repository.name} is declared with {blob.size} bytes,"
            f" more than the {limit} allowed"
        )
    async with repository.blob(blob) as pieces:
        return b"".join([piece async for piece in pieces])


async def copy_blob(
    source: Repository,
    target: Repository,
    blob: AnyBlob,
    scratch: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Bring ``blob`` into ``target``: already there, mounted, or through a file in ``scratch``.

    Args:
        advance: Told of bytes that are in hand.
    """
    if await target.has_blob(blob) or await target.mount_blob(blob, source):
        advance(blob.size)
        return
    path = scratch / f"copy-{blob.digest.partition(':')[2]}"
    try:
        with path.open("wb") as file:
            async with source.blob(blob) as pieces:
                async for piece in pieces:
                    file.write(piece)
                    advance(len(piece))
        await target.push_blob(path, blob)
    finally:
        path.unlink(missing_ok=True)
