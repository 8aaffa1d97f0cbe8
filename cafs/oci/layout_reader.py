"""The reading half of an OCI image layout, wherever its files lie: a directory or a tar.

Source: OCI image-spec, image-layout.md. Disk access happens in worker threads, one hop per call.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from cafs.core.digest import Digest, parse_digest
from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.oci.annotations import REF_NAME
from cafs.oci.blob_check import BlobCheck, check_whole
from cafs.oci.descriptor import AnyBlob, Descriptor, parse_descriptor
from cafs.oci.fields import parse_json_object
from cafs.oci.image import MAX_MANIFEST_BYTES, ImageIndex, Manifest, parse_manifest
from cafs.oci.in_thread import in_thread
from cafs.oci.media_types import INDEXES, MANIFESTS, OCI_MANIFEST
from cafs.oci.referrers import merge_referrers, referrer_entry, referrers_tag
from cafs.oci.repository import Repository
from cafs.oci.spans import FileTree, Span, read_file

PIECE_BYTES = 1 << 20
_CONTAINERD_NAME = "io.containerd.image.name"
"""Where containerd and Docker ≥ 25 put the whole reference; ref.name is then only the tag."""


def blob_name(digest: Digest) -> str:
    """Where a layout keeps a blob."""
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"


class LayoutReader:
    """A ``Repository`` that can only be read: pushes end in UsageError."""

    def __init__(self, tree: FileTree, same_name: Callable[[str, str], bool] = str.__eq__) -> None:
        """
        Args:
            tree: Its files.
            same_name: Whether a name in index.json means what was asked for.
        """
        self._tree = tree
        self._same_name = same_name

    @property
    def name(self) -> str:
        """See ``BlobSource``."""
        return self._tree.name

    async def resolve(self, selector: str) -> Descriptor:
        """See ``Repository``."""
        return await in_thread(self._resolve, selector)

    async def manifest(self, descriptor: Descriptor) -> bytes:
        """See ``Repository``."""
        return await in_thread(self._manifest, descriptor)

    async def referrers(self, subject: AnyBlob, artifact_type: str) -> list[Descriptor]:
        """See ``Repository``. Found through ``subject`` of the manifests that index.json names, and
        through the referrers tag, which some tools write into layouts as well."""
        return await in_thread(self._referrers, subject.digest, artifact_type)

    @asynccontextmanager
    async def blob(self, blob: AnyBlob) -> AsyncGenerator[AsyncIterator[bytes]]:
        """See ``Repository``."""
        span = await in_thread(self._span, blob)
        async with aclosing(self._pieces(span, blob)) as pieces:
            yield pieces

    async def _pieces(self, span: Span, blob: AnyBlob) -> AsyncGenerator[bytes]:
        check = BlobCheck(blob, f"blob {blob.digest} of {self.name}")
        for offset in range(0, span.size, PIECE_BYTES):
            piece = await in_thread(span.read, offset, min(PIECE_BYTES, span.size - offset))
            check.feed(piece)
            yield piece
        check.finish()

    async def has_blob(self, blob: AnyBlob) -> bool:
        """See ``Repository``."""
        span = await in_thread(self._tree.find, blob_name(blob.digest))
        return span is not None and span.size == blob.size

    async def read_range(self, blob: AnyBlob, offset: int, length: int) -> bytes:
        """See ``BlobSource``."""
        return await in_thread(lambda: self._span(blob).read(offset, length))

    async def push_blob(self, content: Path | bytes, blob: AnyBlob, *, hashed: bool = False) -> None:
        """Not possible here."""
        raise self._read_only()

    async def mount_blob(self, blob: AnyBlob, origin: Repository) -> bool:
        """Not possible here."""
        raise self._read_only()

    async def push_manifest(self, content: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """Not possible here."""
        raise self._read_only()

    async def attach(self, content: bytes, media_type: str, subject: AnyBlob) -> Descriptor:
        """Not possible here."""
        raise self._read_only()

    async def aclose(self) -> None:
        """Nothing is held open between calls."""

    def _read_only(self) -> UsageError:
        return UsageError(f"{self.name} cannot be written to: give a registry or oci:DIR as the target")

    def _span(self, blob: AnyBlob) -> Span:
        span = self._tree.find(blob_name(blob.digest))
        if span is None:
            raise NotFoundError(f"{self.name} has no blob {blob.digest}")
        if span.size != blob.size:
            raise IntegrityError(
                f"blob {blob.digest} of {self.name} has {span.size} bytes, declared are {blob.size}"
            )
        return span

    def _manifest(self, descriptor: Descriptor) -> bytes:
        what = f"manifest {descriptor.digest} of {self.name}"
        if descriptor.size > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"{what} is declared with {descriptor.size} bytes, more than is allowed")
        return check_whole(self._span(descriptor).read(0, descriptor.size), descriptor, what)

    def _entries(self) -> tuple[Descriptor, ...]:
        return parse_entries(read_index(self._tree), self.name)

    def _resolve(self, selector: str) -> Descriptor:
        entries = self._entries()
        if ":" in selector and selector.startswith(("sha256:", "sha512:")):
            return self._by_digest(entries, parse_digest(selector))
        if not selector:
            return self._only(entries)
        named = self._named(entries, REF_NAME, selector) or self._named(entries, _CONTAINERD_NAME, selector)
        if not named:
            tagged = [e for e in entries if e.annotations.get(REF_NAME)]  # others may be no images
            known = _names(tagged or entries)
            raise NotFoundError(f"{self.name} has no image {selector!r}; it has: {known}")
        return named[-1]

    def _named(self, entries: tuple[Descriptor, ...], annotation: str, name: str) -> list[Descriptor]:
        return [e for e in entries if self._same_name(e.annotations.get(annotation, ""), name)]

    def _by_digest(self, entries: tuple[Descriptor, ...], digest: Digest) -> Descriptor:
        for entry in entries:
            if entry.digest == digest:
                return entry
        span = self._tree.find(blob_name(digest))
        if span is None or span.size > MAX_MANIFEST_BYTES:
            raise NotFoundError(f"{self.name} has no manifest {digest}")
        what = f"manifest {digest} of {self.name}"
        document = parse_json_object(span.read(0, span.size), what, MAX_MANIFEST_BYTES)
        return Descriptor(digest, span.size, document.optional_text("mediaType") or OCI_MANIFEST)

    def _only(self, entries: tuple[Descriptor, ...]) -> Descriptor:
        if len(entries) == 1:
            return entries[0]
        roots = {e.digest: e for e in entries if not self._is_referrer(e)}
        parts = self._parts_of(roots.values())
        named = {e.digest for e in entries if e.annotations.get(REF_NAME)}
        whole = [e for digest, e in roots.items() if digest in named or digest not in parts]
        if len(whole) == 1:
            return whole[0]
        if not whole:
            raise NotFoundError(f"{self.name} has no image")
        raise UsageError(f"{self.name} holds several images, name one of them: {_names(whole)}")

    def _parts_of(self, entries: Iterable[Descriptor]) -> set[Digest]:
        """The images of those that are for several platforms."""
        documents = [self._document(entry) for entry in entries]
        return {part.digest for one in documents if isinstance(one, ImageIndex) for part in one.manifests}

    def _is_referrer(self, entry: Descriptor) -> bool:
        if entry.annotations.get(REF_NAME, "").startswith("sha256-"):
            return True
        document = self._document(entry)
        return isinstance(document, Manifest) and document.subject is not None

    def _referrers(self, subject: Digest, artifact_type: str) -> list[Descriptor]:
        found: list[Descriptor] = []
        for entry in self._entries():
            if entry.artifact_type in {None, artifact_type}:
                found += self._referrers_by(entry, subject)
        return [e for e in merge_referrers([], found) if e.artifact_type == artifact_type]

    def _referrers_by(self, entry: Descriptor, subject: Digest) -> list[Descriptor]:
        """What one entry of index.json says of the referrers of ``subject``: itself, or a list of them."""
        document = self._document(entry)
        if isinstance(document, ImageIndex):
            listed = entry.annotations.get(REF_NAME) == referrers_tag(subject)
            return list(document.manifests) if listed else []
        if document is None or document.subject is None or document.subject.digest != subject:
            return []
        return [referrer_entry(entry, document)]

    def _document(self, entry: Descriptor) -> Manifest | ImageIndex | None:
        if entry.media_type not in MANIFESTS | INDEXES or self._tree.find(blob_name(entry.digest)) is None:
            return None  # index.json may name other things, and blobs that were left out of a copy
        what = f"manifest {entry.digest} of {self.name}"
        return parse_manifest(self._manifest(entry), entry.media_type, what)


def read_index(tree: FileTree) -> bytes:
    """The layout's index.json.

    Raises:
        NotFoundError: there is no layout.
        IntegrityError: it is too large.
    """
    if tree.find("index.json") is None:
        raise NotFoundError(f"{tree.name} is not an OCI image layout: it has no index.json")
    return read_file(tree, "index.json", MAX_MANIFEST_BYTES)


def parse_entries(document: bytes, name: str) -> tuple[Descriptor, ...]:
    """What the index.json of a layout called ``name`` names.

    Raises:
        IntegrityError: it is not an image index.
    """
    fields = parse_json_object(document, f"index.json of {name}", MAX_MANIFEST_BYTES)
    return tuple(parse_descriptor(entry) for entry in fields.objects("manifests"))


def _names(entries: Sequence[Descriptor]) -> str:
    names = [e.annotations.get(REF_NAME) or e.digest for e in entries]
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "none"
