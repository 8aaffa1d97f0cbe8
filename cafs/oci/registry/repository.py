"""``RegistryRepository``: a repository in a registry as a ``Repository``.

Requests that are safe to repeat are repeated here after failures that may pass, as often as
``settings.retries`` says, obeying Retry-After. ``read_range`` is not: whoever fetches chunks has sources
to choose from and a reader's deadline to keep.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

import trio

from cafs.core.digest import Digest, parse_digest, sha256_digest
from cafs.core.settings import Settings
from cafs.core.source import Span
from cafs.errors import (
    AuthError,
    DeadlineError,
    IntegrityError,
    NotFoundError,
    ProtocolError,
    RemoteError,
    UsageError,
)
from cafs.oci.blob_check import BlobCheck, check_whole
from cafs.oci.descriptor import AnyBlob, Descriptor
from cafs.oci.image import MAX_MANIFEST_BYTES
from cafs.oci.media_types import ACCEPTED, INDEXES, MANIFESTS
from cafs.oci.registry.answers import LastingError, check_content_range, plan_retry
from cafs.oci.registry.byteranges import MOST_RANGES, boundary_of, cut_parts, most_bytes, range_header
from cafs.oci.registry.client import RegistryClient, Request
from cafs.oci.registry.exchange import Exchange
from cafs.oci.registry.pull_secrets import SourcesOf
from cafs.oci.registry.referrers import ReferrersOfRegistry
from cafs.oci.registry.upload import push_blob
from cafs.oci.repository import Repository

log = logging.getLogger(__name__)
T = TypeVar("T")
_OK = frozenset((200,))
_SOON_AT_ONCE = 4
"""After a manifest: its referrers by API and by tag; artifact and profile; indexes and the profile itself."""
_MANIFESTS_KEPT, _LONGEST_KEPT_BYTES = 16, 256 << 10
_PROGRESS_BYTES = 256 << 10
"""A download that breaks off before this much has come counts as a failure like those before it."""


class RegistryRepository:
    """See ``Repository``. The HTTP client is made by the first request."""

    def __init__(
        self, host: str, repository: str, settings: Settings, sources_of: SourcesOf | None = None
    ) -> None:
        """``sources_of`` says where credentials are looked for; by default in Docker's configuration."""
        self.host = host
        self.repository = repository
        self._settings = settings
        self._sources = partial(sources_of, host, repository) if sources_of else None
        self._client: RegistryClient | None = None
        self._ignores_ranges = False
        self._answers_in_parts = True
        self._manifests: dict[Digest, bytes] = {}
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
            self._client = RegistryClient(self.host, self._settings, self._sources)
        return self._client

    async def aclose(self) -> None:
        """See ``Repository``."""
        if self._client is not None:
            await self._client.aclose()

    def path(self, rest: str) -> str:
        """The path of something in this repository."""
        return f"/v2/{self.repository}/{rest}"

    async def resolve(self, selector: str) -> Descriptor:
        """See ``Repository``. The manifest comes along, since it is what is wanted next."""
        if not selector:
            raise UsageError(f"{self.name}: a tag or a digest is needed")
        descriptor, content = await self.client.with_connections_for(
            _SOON_AT_ONCE, lambda: self.fetch_named(selector)
        )
        self._remember(descriptor.digest, content)
        return descriptor

    def _remember(self, digest: Digest, content: bytes) -> None:
        if len(content) <= _LONGEST_KEPT_BYTES:
            while len(self._manifests) >= _MANIFESTS_KEPT:
                del self._manifests[next(iter(self._manifests))]
            self._manifests[digest] = content

    async def fetch_named(self, selector: str) -> tuple[Descriptor, bytes]:
        """``resolve`` and ``manifest`` in one round trip."""
        return await self.patiently(lambda: self._fetch_named(selector))

    async def _fetch_named(self, selector: str) -> tuple[Descriptor, bytes]:
        what = f"{self.name}: manifest {selector}"
        content, media_type = await self.get_manifest(selector)
        pinned = selector if selector.startswith(("sha256:", "sha512:")) else None
        found = self._digest(pinned, what) if pinned else sha256_digest(content)
        descriptor = Descriptor(found, len(content), media_type)
        return descriptor, check_whole(content, descriptor, what)

    async def fetch_unless_blob(self, digest: Digest) -> tuple[Descriptor, bytes] | None:
        """``fetch_named`` of what may be a blob; None when it is one.

        Raises:
            NotFoundError: there is no such manifest; what blobs there are was not asked.
            CafsError: as of ``fetch_named``.
        """
        return await self.patiently(lambda: self._fetch_unless_blob(digest))

    async def _fetch_unless_blob(self, digest: Digest) -> tuple[Descriptor, bytes] | None:
        """docker-registry 2.8 takes a blob for a manifest that is broken, and answers 500."""
        for is_first in (True, False):  # where manifests are blobs, too, one that only stumbled is found now
            try:
                return await self._fetch_named(digest)
            except RemoteError as e:
                if e.http_status != 500 or (is_first and await self._head_blob(digest) is None):  # noqa: ASYNC120 - who is cancelled wants neither
                    raise
        return None

    async def fetch_small(self, blob: AnyBlob, limit: int) -> bytes:
        """A small blob as a whole, verified, in one round trip."""
        what = f"blob {blob.digest} of {self.name}"
        if blob.size > limit:
            raise IntegrityError(f"{what} is declared with {blob.size} bytes, more than the {limit} allowed")

        async def attempt() -> bytes:
            with self.deadline(what):
                return await self.read_range(blob, 0, blob.size)

        return check_whole(await self.patiently(attempt), blob, what)

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
        kept = self._manifests.get(descriptor.digest)
        if kept is not None and len(kept) == descriptor.size:
            return kept
        content, _ = await self.patiently(lambda: self.get_manifest(descriptor.digest))
        self._remember(descriptor.digest, check_whole(content, descriptor, what))
        return content

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
        async with aclosing(self._pieces(blob)) as pieces:
            try:
                first = await anext(pieces, b"")
            except NotFoundError as e:
                raise NotFoundError(f"{self.name} has no blob {blob.digest}") from e
            async with aclosing(_chained(first, pieces)) as whole:
                yield whole

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
            skip = self._check_answer(response, blob, offset, length, what)
            seen = 0
            while piece := await response.receive():
                wanted, skip = piece[skip:], max(0, skip - len(piece))
                if seen + len(wanted) > length:
                    if response.status == 206 or whole:
                        raise ProtocolError(f"{what}: answered with more bytes than asked for")
                    wanted = wanted[: length - seen]
                seen += len(wanted)
                if wanted:
                    yield wanted  # noqa: ASYNC119 - all callers close it
                if seen == length and response.status == 200 and not whole:
                    return  # the rest of the blob is not wanted: closing ends it
        if seen != length:
            raise ProtocolError(f"{what}: answered with {seen} bytes only")

    def _check_answer(self, response: Exchange, blob: AnyBlob, offset: int, length: int, what: str) -> int:
        """Refuse what was not asked for; returns how many bytes come before what was."""
        if response.status == 206:
            check_content_range(response.headers.get("content-range", ""), offset, length, blob.size, what)
        elif length != blob.size:
            if response.headers.get("content-length") not in {None, str(blob.size)}:
                raise ProtocolError(f"{what}: answered 200 with another length than the declared {blob.size}")
            self._note_ignored_range()
            return offset
        return 0

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

    @property
    def most_ranges(self) -> int:
        """See ``ScatteredSource``."""
        return MOST_RANGES if self._answers_in_parts else 1

    async def read_ranges(self, blob: AnyBlob, spans: Sequence[Span]) -> list[bytes]:
        """See ``ScatteredSource``. Stores of objects behind a registry may know one range only."""
        if self._answers_in_parts and len(spans) > 1:
            bodies = await self._read_parts(blob, spans)
            if bodies is not None:
                return bodies
            log.info("%s answers no requests for several ranges: they are asked for one by one", self.name)
            self._answers_in_parts = False
        return [await self.read_range(blob, *span) for span in spans]

    async def _read_parts(self, blob: AnyBlob, spans: Sequence[Span]) -> list[bytes] | None:
        """One request for all; None when the answer is none to that."""
        what = f"{self.name}: blob {blob.digest}, {len(spans)} ranges from byte {spans[0].offset} on"
        expect = frozenset((200, 206, 400, 416))
        headers = {"Range": range_header(spans)}
        request = Request("GET", self.path(f"blobs/{blob.digest}"), what, self.pull_scopes, expect, headers)
        async with self.client.stream(request) as response:
            boundary = boundary_of(response.headers.get("content-type", ""))
            if response.status != 206 or boundary is None:
                return None
            body, limit = bytearray(), most_bytes(spans)
            while piece := await response.receive():
                body += piece
                if len(body) > limit:
                    raise ProtocolError(f"{what}: answered with more bytes than asked for")
        return cut_parts(bytes(body), boundary, spans, blob.size, what)

    async def has_blob(self, blob: AnyBlob) -> bool:
        """See ``Repository``."""
        return await self.patiently(lambda: self._has_blob(blob))

    async def _has_blob(self, blob: AnyBlob) -> bool:
        headers = await self._head_blob(blob.digest)
        if headers is None:
            return False
        length = headers.get("content-length")
        if length is not None and length != str(blob.size):
            raise IntegrityError(
                f"{self.name}: blob {blob.digest} has {length[:20]} bytes there, declared are {blob.size}"
            )
        return True

    async def _head_blob(self, digest: Digest) -> Mapping[str, str] | None:
        """What is said of a blob; None when there is none."""
        what = f"{self.name}: blob {digest}"
        request = Request("HEAD", self.path(f"blobs/{digest}"), what, self.pull_scopes, frozenset((200, 404)))
        with self.deadline(what):
            response, _ = await self.client.call(request)
        return None if response.status == 404 else response.headers

    async def push_blob(self, content: Path | bytes, blob: AnyBlob, *, hashed: bool = False) -> None:
        """See ``Repository``."""

        async def attempt() -> None:
            # Also after a failure: the registry may have taken it all and only the answer was lost.
            if not await self._has_blob(blob):
                await push_blob(self, content, blob)

        await self.patiently(attempt)

    async def mount_blob(self, blob: AnyBlob, origin: Repository) -> bool:
        """See ``Repository``. Within one registry only, and where that lets it be."""
        if not isinstance(origin, RegistryRepository) or origin.host != self.host:
            return False
        try:
            return await self.patiently(lambda: self._mount_blob(blob, origin))
        except (AuthError, LastingError, NotFoundError) as e:
            log.info("a blob is sent, as it cannot be mounted: %s", e)
            return False

    async def _mount_blob(self, blob: AnyBlob, origin: RegistryRepository) -> bool:
        query = urlencode({"mount": blob.digest, "from": origin.repository})
        what = f"{self.name}: mounting blob {blob.digest} from {origin.repository}"
        scopes = (*self.push_scopes, *(s for s in origin.pull_scopes if origin.repository != self.repository))
        request = Request("POST", self.path(f"blobs/uploads/?{query}"), what, scopes, frozenset((201, 202)))
        with self.deadline(what):
            response, _ = await self.client.call(request)
            if response.status == 202:
                await self._abandon_upload(response, scopes)
        return response.status == 201

    async def _abandon_upload(self, response: Exchange, scopes: tuple[str, ...]) -> None:
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
    ) -> tuple[Descriptor, Mapping[str, str]]:
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
        self._referrers.forget(subject.digest)
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


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _media_type(response: Exchange) -> str:
    """The Content-Type without its parameters, where it is a manifest's or an index's; else empty."""
    media_type = response.headers.get("content-type", "").partition(";")[0].strip()
    return media_type if media_type in MANIFESTS | INDEXES else ""
