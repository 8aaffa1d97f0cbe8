"""``RegistryRepository``: a repository in a registry as a ``Repository``.

Requests that are safe to repeat are repeated here after failures that may pass, as often as
``settings.retries`` says, obeying Retry-After. ``read_range`` is not: whoever fetches chunks has sources
to choose from and a reader's deadline to keep.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2 as httpx
import trio

from cafs.core.digest import Digest, parse_digest, sha256_digest
from cafs.core.settings import Settings
from cafs.errors import DeadlineError, IntegrityError, NotFoundError, ProtocolError, RemoteError, UsageError
from cafs.oci.blob_check import BlobCheck, check_whole
from cafs.oci.descriptor import AnyBlob, Descriptor
from cafs.oci.image import MAX_MANIFEST_BYTES
from cafs.oci.media_types import ACCEPTED, INDEXES, MANIFESTS
from cafs.oci.registry.answers import check_content_range, plan_retry
from cafs.oci.registry.client import RegistryClient, Request
from cafs.oci.registry.referrers import ReferrersOfRegistry
from cafs.oci.registry.upload import push_blob
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)
T = TypeVar("T")
_OK = frozenset((200,))
_PROGRESS_BYTES = 256 << 10
"""A download that breaks off before this much has come counts as a failure like those before it."""


class RegistryRepository:
    """See ``Repository``. The HTTP client is made by the first request."""

    def __init__(self, host: str, repository: str, settings: Settings) -> None:
        self.host = host
        self.repository = repository
        self._settings = settings
        self._client: RegistryClient | None = None
        self._ignores_ranges = False
        self._referrers = ReferrersOfRegistry(self)
        self.pull_scopes: tuple[str, ...] = (f"repository:{repository}:pull",)
        self.push_scopes: tuple[str, ...] = (f"repository:{repository}:pull,push",)

    @property
    def name(self) -> str:
        """See ``BlobSource``."""
        return f"docker://{self.host}/{self.repository}"

    @property
    def client(self) -> RegistryClient:
        """The connections to the registry."""
        if self._client is None:
            self._client = RegistryClient(self.host, self._settings)
        return self._client

    async def aclose(self) -> None:
        """See ``Repository``."""
        if self._client is not None:
            await self._client.aclose()

    def path(self, rest: str) -> str:
        """The path of something in this repository."""
        return f"/v2/{self.repository}/{rest}"

    async def resolve(self, selector: str) -> Descriptor:
        """See ``Repository``. A tag costs one HEAD request."""
        if not selector:
            raise UsageError(f"{self.name}: a tag or a digest is needed")
        return await self.patiently(lambda: self._resolve(selector))

    async def _resolve(self, selector: str) -> Descriptor:
        what = f"{self.name}: manifest {selector}"
        request = Request(
            "HEAD", self.path(f"manifests/{selector}"), what, self.pull_scopes, _OK, {"Accept": ACCEPTED}
        )
        with self.deadline(what):
            response, _ = await self.client.call(request)
        digest = response.headers.get("docker-content-digest", "")
        length = response.headers.get("content-length", "")
        media_type = _media_type(response)
        pinned = selector if selector.startswith(("sha256:", "sha512:")) else None
        if (digest or pinned) and length.isdecimal() and len(length) < 16 and media_type:
            found = self._digest(pinned or digest, what)
            if digest and digest != found:
                raise IntegrityError(f"{what}: the registry names it {digest[:80]}")
            return Descriptor(found, int(length), media_type)
        content, media_type = await self.get_manifest(selector)
        found = self._digest(pinned, what) if pinned else sha256_digest(content)
        check_whole(content, Descriptor(found, len(content), media_type), what)
        return Descriptor(found, len(content), media_type)

    def _digest(self, text: str, what: str) -> Digest:
        try:
            return parse_digest(text)
        except UsageError as e:
            raise ProtocolError(f"{what}: the registry names a digest that is none") from e

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """See ``Repository``."""
        what = f"manifest {descriptor.digest} of {self.name}"
        if descriptor.size > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"{what} is declared with {descriptor.size} bytes, more than is allowed")
        content, _ = await self.patiently(lambda: self.get_manifest(descriptor.digest))
        return check_whole(content, descriptor, what)

    async def get_manifest(self, selector: str) -> tuple[bytes, str]:
        """A manifest as the registry answers it, not verified, and its media type."""
        what = f"{self.name}: manifest {selector}"
        request = Request(
            "GET", self.path(f"manifests/{selector}"), what, self.pull_scopes, _OK, {"Accept": ACCEPTED}
        )
        with self.deadline(what):
            response, content = await self.client.call(request, MAX_MANIFEST_BYTES)
        return content, _media_type(response)

    async def referrers(self, subject: AnyBlob, artifact_type: str) -> list[Descriptor]:
        """See ``Repository``. Asks the Referrers API, or reads the referrers tag where there is none."""

        async def attempt() -> list[Descriptor]:
            with self.deadline(f"{self.name}: referrers of {subject.digest}"):
                return await self._referrers.listed(subject.digest, artifact_type)

        return await self.patiently(attempt)

    @asynccontextmanager
    async def blob(self, blob: AnyBlob) -> AsyncGenerator[AsyncIterator[bytes]]:
        """See ``Repository``. A broken download goes on where it broke."""
        if not await self.has_blob(blob):
            raise NotFoundError(f"{self.name} has no blob {blob.digest}")
        async with aclosing(self._pieces(blob)) as pieces:
            yield pieces

    async def _pieces(self, blob: AnyBlob) -> AsyncGenerator[bytes]:
        check = BlobCheck(blob, f"blob {blob.digest} of {self.name}", ProtocolError)
        seen, attempt, since = 0, 0, 0
        while seen < blob.size:
            try:
                async with aclosing(self._read(blob, seen, blob.size - seen)) as pieces:
                    async for piece in pieces:
                        check.feed(piece)
                        seen, since = seen + len(piece), since + len(piece)
                        # A few bytes a time are no progress: it would go on without end.
                        attempt = 0 if since >= _PROGRESS_BYTES else attempt
                        yield piece  # noqa: ASYNC119 - its caller closes this generator
            except RemoteError as e:
                attempt, since = attempt + 1, 0
                await self._wait_or_raise(e, attempt)
        check.finish()

    async def _read(self, blob: AnyBlob, offset: int, length: int) -> AsyncGenerator[bytes]:
        """The pieces of a range; exactly ``length`` bytes or an error."""
        what = f"{self.name}: blob {blob.digest} bytes {offset}-{offset + length - 1}"
        whole = length == blob.size
        headers = {} if whole else {"Range": f"bytes={offset}-{offset + length - 1}"}
        expect = _OK if whole else frozenset((200, 206))
        request = Request("GET", self.path(f"blobs/{blob.digest}"), what, self.pull_scopes, expect, headers)
        async with self.client.stream(request) as response:
            skip = 0
            if response.status_code == 206:
                check_content_range(
                    response.headers.get("content-range", ""), offset, length, blob.size, what
                )
            elif not whole:
                if response.headers.get("content-length") not in {None, str(blob.size)}:
                    raise ProtocolError(
                        f"{what}: answered 200 with another length than the declared {blob.size}"
                    )
                self._note_ignored_range()
                skip = offset
            seen = 0
            async with self.client.raw_pieces(response, what) as raw:
                async for piece in raw:
                    wanted, skip = piece[skip:], max(0, skip - len(piece))
                    if seen + len(wanted) > length:
                        if response.status_code == 206 or whole:
                            raise ProtocolError(f"{what}: answered with more bytes than asked for")
                        wanted = wanted[: length - seen]
                    seen += len(wanted)
                    if wanted:
                        yield wanted  # noqa: ASYNC119 - all callers close it
                    if seen == length and response.status_code == 200 and not whole:
                        return  # the rest of the blob is not wanted: closing ends it
        if seen != length:
            raise ProtocolError(f"{what}: answered with {seen} bytes only")

    def _note_ignored_range(self) -> None:
        if not self._ignores_ranges:
            self._ignores_ranges = True
            log.warning(
                "%s ignores range requests and sends whole blobs: reading lazily from it is slow", self.name
            )

    async def read_range(self, blob: AnyBlob, offset: int, length: int) -> bytes:
        """See ``BlobSource``."""
        if offset < 0 or length < 0 or offset + length > blob.size:
            raise IntegrityError(
                f"blob {blob.digest} has no bytes {offset}-{offset + length}: it has {blob.size}"
            )
        if length == 0:
            return b""
        async with aclosing(self._read(blob, offset, length)) as pieces:
            return b"".join([piece async for piece in pieces])

    async def has_blob(self, blob: AnyBlob) -> bool:
        """See ``Repository``."""
        return await self.patiently(lambda: self._has_blob(blob))

    async def _has_blob(self, blob: AnyBlob) -> bool:
        what = f"{self.name}: blob {blob.digest}"
        request = Request(
            "HEAD", self.path(f"blobs/{blob.digest}"), what, self.pull_scopes, frozenset((200, 404))
        )
        with self.deadline(what):
            response, _ = await self.client.call(request)
        if response.status_code == 404:
            return False
        length = response.headers.get("content-length")
        if length is not None and length != str(blob.size):
            raise IntegrityError(f"{what} has {length[:20]} bytes there, declared are {blob.size}")
        return True

    async def push_blob(self, content: Path | bytes, blob: AnyBlob) -> None:
        """See ``Repository``."""

        async def attempt() -> None:
            # Also after a failure: the registry may have taken it all and only the answer was lost.
            if not await self._has_blob(blob):
                await push_blob(self, content, blob)

        await self.patiently(attempt)

    async def mount_blob(self, blob: AnyBlob, origin: Repository) -> bool:
        """See ``Repository``. Within one registry only."""
        if not isinstance(origin, RegistryRepository) or origin.host != self.host:
            return False
        query = str(httpx.QueryParams({"mount": blob.digest, "from": origin.repository}))
        what = f"{self.name}: mounting blob {blob.digest} from {origin.repository}"
        scopes = (*self.push_scopes, *(s for s in origin.pull_scopes if origin.repository != self.repository))
        request = Request("POST", self.path(f"blobs/uploads/?{query}"), what, scopes, frozenset((201, 202)))
        with self.deadline(what):
            response, _ = await self.client.call(request)
            if response.status_code == 202:
                await self._abandon_upload(response, scopes)
        return response.status_code == 201

    async def _abandon_upload(self, response: httpx.Response, scopes: tuple[str, ...]) -> None:
        """A mount that cannot be opens an upload instead; we do not want it."""
        what = f"{self.name}: giving up an upload"
        location = response.headers.get("location", "")
        try:
            await self.client.call(Request("DELETE", location, what, scopes, frozenset((204, 404))))
        except RemoteError as e:
            log.debug("an upload was left to the registry's own cleaning: %s", e)

    async def push_manifest(self, content: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """See ``Repository``."""
        descriptor, _ = await self.patiently(lambda: self.put_manifest(content, media_type, tag))
        return descriptor

    async def put_manifest(
        self, content: bytes, media_type: str, tag: str | None
    ) -> tuple[Descriptor, httpx.Headers]:
        """Push once; the answer's headers say whether the registry lists referrers itself."""
        descriptor = Descriptor(sha256_digest(content), len(content), media_type)
        what = f"{self.name}: pushing manifest {tag or descriptor.digest}"
        request = Request(
            "PUT",
            self.path(f"manifests/{tag or descriptor.digest}"),
            what,
            self.push_scopes,
            frozenset((200, 201)),
            {"Content-Type": media_type},
            content,
        )
        with self.deadline(what):
            response, _ = await self.client.call(request)
        stored = response.headers.get("docker-content-digest")
        if stored and stored != descriptor.digest:
            raise ProtocolError(
                f"{what}: the registry stored it as {stored[:80]}, not as {descriptor.digest}"
            )
        return descriptor, response.headers

    async def attach(self, content: bytes, media_type: str, subject: AnyBlob) -> Descriptor:
        """See ``Repository``."""
        descriptor, headers = await self.patiently(lambda: self.put_manifest(content, media_type, None))
        if "oci-subject" not in headers:
            await self.patiently(lambda: self._referrers.list_by_tag(content, descriptor, subject.digest))
        return descriptor

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Do it again after failures that may pass."""
        failures = 0
        while True:
            try:
                return await attempt()
            except RemoteError as e:
                failures += 1
                await self._wait_or_raise(e, failures)

    async def _wait_or_raise(self, error: RemoteError, failures: int) -> None:
        wait = plan_retry(error, failures, self._settings.retries, random.random())  # noqa: S311 - jitter
        if wait is None:
            raise error
        log.info("%s; trying again in %.1f s", error, wait)
        await trio.sleep(wait)

    @contextmanager
    def deadline(self, what: str) -> Iterator[None]:
        """Small requests end within the read deadline, however slowly their bytes drip."""
        try:
            with trio.fail_after(self._settings.read_deadline_s):
                yield
        except trio.TooSlowError as e:
            raise DeadlineError(f"{what}: not answered within {self._settings.read_deadline_s:g} s") from e


def _media_type(response: httpx.Response) -> str:
    """The Content-Type without its parameters, where it is a manifest's or an index's; else empty."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    return media_type if media_type in MANIFESTS | INDEXES else ""
