"""``docker://`` downloads: one blob, or the files of an OCI artifact (trio).

Blobs come through the peer where one runs: it is handed what lets us in (``docker login``, or a token), which
makes them private. Else they come through the registry client. Every file is verified against its digest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from types import TracebackType
from typing import Self

from cafs.core.body_window import BodyWindow
from cafs.core.digest import Digest
from cafs.errors import CafsError, NotFoundError, ProtocolError, UsageError
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import Manifest, parse_manifest
from cafs.oci.reference import RegistryReference
from cafs.oci.registry.answers import parse_content_range
from cafs.oci.registry.client import Request
from cafs.oci.registry.exchange import Exchange
from cafs.oci.registry.repository import RegistryRepository
from cafs.p2p.content import Content, Distributor, Headers, OriginError, Wish

TITLE = "org.opencontainers.image.title"
_EXPECTED = frozenset((200, 206))


@dataclass(frozen=True, slots=True)
class NamedBlob:
    """One file of an artifact."""

    path: str
    """Below the target; empty for a blob that was asked for by its digest."""
    digest: Digest


async def list_blobs(repository: RegistryRepository, reference: RegistryReference) -> list[NamedBlob]:
    """What a reference stands for: the files of an artifact, or the blob that has this digest.

    Raises:
        UsageError: it is an image, which has no files to download; or a title that cannot be a path.
        CafsError: there is no such thing, or the registry fails.
    """
    named = await _fetch_manifest(repository, reference)
    if named is None:
        assert reference.digest is not None, reference
        return [NamedBlob("", reference.digest)]
    descriptor, content = named
    manifest = parse_manifest(content, descriptor.media_type, f"manifest {reference.selector}")
    titled = manifest.layers if isinstance(manifest, Manifest) else ()
    blobs = [
        NamedBlob(_path(layer.annotations[TITLE]), layer.digest)
        for layer in titled
        if TITLE in layer.annotations
    ]
    if not blobs:
        raise UsageError(f"{reference} is an image, or names no files: use 'cafs pull' or 'cafs mount'")
    return blobs


async def _fetch_manifest(
    repository: RegistryRepository, reference: RegistryReference
) -> tuple[Descriptor, bytes] | None:
    """None: no manifest has this digest."""
    if reference.digest is None:
        return await repository.fetch_named(reference.selector)
    try:
        return await repository.fetch_unless_blob(reference.digest)
    except NotFoundError:
        return None


def _path(title: str) -> str:
    path = PurePosixPath(title)
    if path.is_absolute() or ".." in path.parts or not path.parts or not title.isprintable():
        raise UsageError(f"the artifact names a file {title[:80]!r}: that cannot be a path here")
    return str(path)


class BlobDistributor:
    """See ``Distributor``: blobs of one repository; a wish's digest says which."""

    def __init__(self, repository: RegistryRepository, peer: Distributor | None) -> None:
        self._repository = repository
        self._peer = peer
        self.by_peer = peer is not None
        """The peer has served all so far."""

    async def open(self, wish: Wish) -> Content:
        """See ``Distributor``."""
        if self._peer is not None:
            try:
                return await self._peer.open(await self._with_credentials(wish))
            except OriginError:
                pass  # a token's time may be over, and the registry client knows how to get another one
            except CafsError:
                self._peer = None  # it is in trouble
        self.by_peer = False
        return await self._open_straight(wish)

    async def _with_credentials(self, wish: Wish) -> Wish:
        repository = self._repository
        held = await repository.client.authorization(repository.pull_scopes)
        return wish if held is None else replace(wish, headers=(*wish.headers, ("authorization", held)))

    async def _open_straight(self, wish: Wish) -> RegistryContent:
        repository, digest = self._repository, wish.digest
        assert digest is not None, wish
        last = "" if wish.last_byte is None else wish.last_byte
        ranged = wish.first_byte > 0 or wish.last_byte is not None
        headers = {"Range": f"bytes={wish.first_byte}-{last}"} if ranged else {}
        what = f"{repository.name}: blob {digest}"
        path = repository.path(f"blobs/{digest}")
        request = Request("GET", path, what, repository.pull_scopes, _EXPECTED, headers)
        async with AsyncExitStack() as stack:
            exchange = await stack.enter_async_context(repository.client.stream(request))
            content = RegistryContent(exchange, stack.pop_all(), wish)
            if content.first_byte != wish.first_byte:
                await content.aclose()
                raise ProtocolError(f"{what}: answered with another range than was asked for")
            return content


class RegistryContent:
    """See ``Content``. A registry that ignores ranges is read up to the one that is wanted."""

    def __init__(self, exchange: Exchange, stack: AsyncExitStack, wish: Wish) -> None:
        self._exchange = exchange
        self._stack = stack
        self.status = exchange.status
        self.headers: Headers = tuple(exchange.headers.items())
        self.first_byte = wish.first_byte
        self.last_byte = wish.last_byte
        self.content_bytes: int | None = None
        skip = 0
        length = exchange.headers.get("content-length", "")
        if found := parse_content_range(exchange.headers.get("content-range", "")):
            self.first_byte, self.last_byte, self.content_bytes = found.first, found.last, found.total
        else:
            skip = wish.first_byte
            if length.isdecimal():
                self.content_bytes, end = int(length), int(length) - 1
                self.last_byte = end if wish.last_byte is None else min(wish.last_byte, end)
        wanted = None if self.last_byte is None else self.last_byte + 1 - self.first_byte
        self._window = BodyWindow(skip, wanted)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """The end."""
        await self._stack.aclose()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._window.left != 0 and (piece := await self._exchange.receive()):
            if wanted := self._window.cut(piece):
                return wanted
        raise StopAsyncIteration
