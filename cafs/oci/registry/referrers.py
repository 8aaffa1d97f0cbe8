"""Referrers in a registry: the API where there is one, the referrers tag where there is none.

Source: OCI distribution-spec v1.1, "Listing Referrers", "Referrers Tag Schema". The tag holds an image
index that writers read, extend and push again. Registries have no compare-and-swap, so a writer looks
again after its push and repeats when its entry is gone: of two writers the later one repairs, unless both
looked before the other's push. Within one process a lock excludes even that.

A start asks for two types within moments, its index artifact and its profile: all referrers are asked for at
once, and remembered for as long as that takes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, Protocol

import trio

from cafs.core.digest import Digest
from cafs.errors import CafsError, IntegrityError, NotFoundError, ProtocolError, RemoteError
from cafs.oci.descriptor import Descriptor
from cafs.oci.image import MAX_MANIFEST_BYTES, ImageIndex, Manifest, parse_manifest
from cafs.oci.media_types import OCI_INDEX
from cafs.oci.referrers import change_index, merge_referrers, referrer_entry, referrers_tag
from cafs.oci.registry.answers import parse_next_link, resolve_location
from cafs.oci.registry.client import RegistryClient, Request

_MAX_PAGES = 100
_MAX_REFERRERS = 10_000
_NO_API = frozenset((400, 404, 405, 501))
"""What registries without the API answer to its path."""
_TRIES = 8
_FRESH_S = 3.0
_MAX_REMEMBERED = 16


class _Answer(NamedTuple):
    entries: Sequence[Descriptor]
    at: float
    """When it came, on trio's clock."""


class ReferrersRepository(Protocol):
    """What is needed of a repository."""

    pull_scopes: tuple[str, ...]

    @property
    def name(self) -> str: ...

    @property
    def client(self) -> RegistryClient: ...

    def path(self, rest: str) -> str: ...

    async def get_manifest(self, selector: str) -> tuple[bytes, str]: ...

    async def put_manifest(
        self, content: bytes, media_type: str, tag: str | None
    ) -> tuple[Descriptor, Mapping[str, str]]: ...


class ReferrersOfRegistry:
    """Lists and extends the referrers of manifests in one repository."""

    def __init__(self, repository: ReferrersRepository) -> None:
        self._repository = repository
        self._lock = trio.Lock()
        self._asking: dict[Digest, trio.Lock] = {}
        self._answers: dict[Digest, _Answer] = {}

    async def listed(self, subject: Digest, artifact_type: str) -> list[Descriptor]:
        """All referrers of one type, as they were a moment ago at most."""
        turn = self._asking.setdefault(subject, trio.Lock())
        asked_at = trio.current_time()
        try:
            async with turn:
                entries = await self._entries(subject, asked_at)
        finally:
            if not turn.locked():
                self._asking.pop(subject, None)
        # Filtered here, for the tag knows no filters.
        return [entry for entry in entries if entry.artifact_type == artifact_type]

    async def _entries(self, subject: Digest, asked_at: float) -> Sequence[Descriptor]:
        last = self._answers.get(subject)
        if last is not None:
            # That there are none is told only to who asked before: who converts the image next shall be seen.
            is_fresh = last.entries and trio.current_time() < last.at + _FRESH_S
            if is_fresh or last.at >= asked_at:
                return last.entries
        entries = await self._ask(subject)
        self.forget(subject)
        while len(self._answers) >= _MAX_REMEMBERED:
            del self._answers[next(iter(self._answers))]
        self._answers[subject] = _Answer(entries, trio.current_time())
        return entries

    def forget(self, subject: Digest) -> None:
        """Something was attached to it."""
        self._answers.pop(subject, None)

    async def _ask(self, subject: Digest) -> Sequence[Descriptor]:
        """A registry with the API and one without are both asked right, in one round trip: a start waits."""
        by_tag: list[Descriptor] | CafsError | None = None

        async def ask_for_tag() -> None:
            nonlocal by_tag
            by_tag = await _unwrapped(self._by_tag(subject))  # no matter what, if the API answers

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_for_tag)
            by_api = await _unwrapped(self._by_api(subject))
            if by_api is not None:
                nursery.cancel_scope.cancel()
        found = by_tag if by_api is None else by_api
        if isinstance(found, CafsError):
            raise found
        return found or ()

    async def _by_api(self, subject: Digest) -> list[Descriptor] | None:
        """None when the registry has no such API."""
        repository = self._repository
        what = f"{repository.name}: referrers of {subject}"
        url: str | None = repository.path(f"referrers/{subject}")
        found: list[Descriptor] = []
        for _ in range(_MAX_PAGES):
            if url is None:
                return found
            headers = {"Accept": OCI_INDEX}
            request = Request("GET", url, what, repository.pull_scopes, _NO_API | {200}, headers)
            response, content = await repository.client.call(request, MAX_MANIFEST_BYTES)
            media_type = response.headers.get("content-type", "").partition(";")[0].strip()
            if response.status != 200 or media_type != OCI_INDEX:
                return None
            found = merge_referrers(found, self._parsed(content, what))
            link = parse_next_link(response.headers.get("link", ""))
            url = resolve_location(response.url, link, what) if link else None
            if len(found) > _MAX_REFERRERS:
                break
        raise ProtocolError(f"{what}: the list does not end")

    def _parsed(self, content: bytes, what: str) -> tuple[Descriptor, ...]:
        try:
            document = parse_manifest(content, OCI_INDEX, what)
        except IntegrityError as e:
            raise ProtocolError(str(e)) from e
        return document.manifests if isinstance(document, ImageIndex) else ()

    async def _by_tag(self, subject: Digest) -> list[Descriptor]:
        return (await self._read_tag(subject))[1]

    async def _read_tag(self, subject: Digest) -> tuple[bytes | None, list[Descriptor]]:
        """What lies under the tag, if anything does, and the entries of that."""
        tag = referrers_tag(subject)
        what = f"{self._repository.name}: referrers tag {tag}"
        try:
            content, media_type = await self._repository.get_manifest(tag)
        except NotFoundError:
            return None, []
        document = parse_manifest(content, media_type, what)
        if not isinstance(document, ImageIndex):
            raise ProtocolError(f"{what} holds no image index")
        return content, list(document.manifests)

    async def list_by_tag(self, content: bytes, descriptor: Descriptor, subject: Digest) -> None:
        """Name a pushed manifest under the referrers tag of its subject.

        Raises:
            RemoteError: other writers took the tag from us again and again.
        """
        document = parse_manifest(content, descriptor.media_type, f"manifest {descriptor.digest}")
        if not isinstance(document, Manifest):
            raise IntegrityError(f"manifest {descriptor.digest} is an index and cannot be a referrer here")
        entry = referrer_entry(descriptor, document)
        async with self._lock:
            for _ in range(_TRIES):
                listed, known = await self._read_tag(subject)
                if any(e.digest == entry.digest for e in known):
                    return
                merged = change_index(listed, known, merge_referrers(known, [entry]))
                await self._repository.put_manifest(merged, OCI_INDEX, referrers_tag(subject))
        raise RemoteError(
            f"{self._repository.name}: the referrers tag of {subject} is overwritten by others"
            f" faster than we can add to it"
        )


async def _unwrapped(asking: Awaitable[list[Descriptor] | None]) -> list[Descriptor] | CafsError | None:
    """The result, or the error as a value: a nursery would wrap it in a group."""
    try:
        return await asking
    except CafsError as e:
        return e
