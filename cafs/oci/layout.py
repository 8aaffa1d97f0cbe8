"""An OCI image layout directory, read and written.

Every file is written beside and renamed; index.json is changed only under an exclusive ``flock`` on the
directory, so that several processes may push into one layout. Other tools (skopeo, umoci) do not take
that lock: their concurrent writes win or lose as a whole, but never mix.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cafs.core.digest import sha256_digest
from cafs.errors import StateError, StorageError
from cafs.oci.annotations import REF_NAME
from cafs.oci.blob_check import BlobCheck, check_whole
from cafs.oci.descriptor import AnyBlob, Descriptor
from cafs.oci.durable import adopt_file, replace_file
from cafs.oci.image import Manifest, parse_manifest
from cafs.oci.in_thread import in_thread
from cafs.oci.layout_reader import LayoutReader, blob_name, parse_entries, read_index
from cafs.oci.referrers import change_index, referrer_entry
from cafs.oci.repository import Repository
from cafs.oci.spans import DirectoryTree

_LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'
_LOCK_PAUSE_S = 0.02


class LayoutRepository(LayoutReader):
    """A ``Repository`` in a directory. The directory is made by the first push."""

    def __init__(self, root: Path, lock_deadline_s: float = 30.0) -> None:
        super().__init__(DirectoryTree(root, f"oci:{root}"))
        self.root = root
        self._lock_deadline_s = lock_deadline_s

    async def push_blob(self, content: Path | bytes, blob: AnyBlob, *, hashed: bool = False) -> None:
        """See ``Repository``. A file on the same filesystem is linked instead of copied."""
        if not await self.has_blob(blob):
            await in_thread(lambda: self._store(content, blob, hashed=hashed))

    async def mount_blob(self, blob: AnyBlob, origin: Repository) -> bool:
        """See ``Repository``. Only from another layout directory."""
        if await self.has_blob(blob):
            return True
        if not isinstance(origin, LayoutRepository) or not await origin.has_blob(blob):
            return False
        await self.push_blob(origin.root / blob_name(blob.digest), blob)
        return True

    async def push_manifest(self, content: bytes, media_type: str, tag: str | None = None) -> Descriptor:
        """See ``Repository``. Every pushed manifest is named in index.json; a tag moves to the newest."""
        descriptor, entry = self._described(content, media_type)
        if tag is not None:
            entry = _with_name(entry, tag)
        await in_thread(self._put, content, descriptor, lambda known: _tagged(known, entry))
        return descriptor

    async def attach(self, content: bytes, media_type: str, subject: AnyBlob) -> Descriptor:
        """See ``Repository``."""
        descriptor, entry = self._described(content, media_type)
        await in_thread(self._put, content, descriptor, lambda known: _listed(known, entry))
        return descriptor

    def _described(self, content: bytes, media_type: str) -> tuple[Descriptor, Descriptor]:
        descriptor = Descriptor(sha256_digest(content), len(content), media_type)
        document = parse_manifest(content, media_type, f"manifest for {self.name}")
        if isinstance(document, Manifest) and (document.artifact_type or document.subject):
            return descriptor, referrer_entry(descriptor, document)
        return descriptor, descriptor

    def _put(
        self,
        content: bytes,
        descriptor: Descriptor,
        change: Callable[[Sequence[Descriptor]], list[Descriptor]],
    ) -> None:
        self._store(content, descriptor)
        with _storage_errors(self.root), _locked(self.root, self._lock_deadline_s):
            document = read_index(self._tree) if self._tree.find("index.json") else None
            known = parse_entries(document, self.name) if document else ()
            replace_file(self.root / "index.json", change_index(document, known, change(known)))

    def _store(self, content: Path | bytes, blob: AnyBlob, *, hashed: bool = False) -> None:
        """Write one blob, verified, whole or not at all."""
        what = f"blob {blob.digest} for {self.name}"
        target = self.root / blob_name(blob.digest)
        with _storage_errors(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            if not (self.root / "oci-layout").exists():
                replace_file(self.root / "oci-layout", _LAYOUT_FILE)
            if isinstance(content, bytes):
                replace_file(target, check_whole(content, blob, what))
            else:
                adopt_file(
                    content, target, BlobCheck(blob, what), trusted_bytes=blob.size if hashed else None
                )


def _with_name(entry: Descriptor, tag: str) -> Descriptor:
    annotations = {**entry.annotations, REF_NAME: tag}
    return Descriptor(entry.digest, entry.size, entry.media_type, entry.artifact_type, annotations)


def _listed(known: Sequence[Descriptor], entry: Descriptor) -> list[Descriptor]:
    """``entry`` added, unless one names it already. The others stay: a digest may have many tags."""
    return [*known] if any(e.digest == entry.digest for e in known) else [*known, entry]


def _tagged(known: Sequence[Descriptor], entry: Descriptor) -> list[Descriptor]:
    """``entry`` added; what held its tag before loses it, and goes when nothing else names it."""
    tag = entry.annotations.get(REF_NAME)
    kept = [
        e
        for e in known
        if (tag is None or e.annotations.get(REF_NAME) != tag)
        and not (e.digest == entry.digest and e.annotations.get(REF_NAME) in {None, tag})
    ]
    return [*kept, entry]


@contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise StorageError(f"cannot write into oci:{root}: {e.strerror}") from e


@contextmanager
def _locked(root: Path, deadline_s: float) -> Iterator[None]:
    """Hold the layout's lock. Polled, because a blocking flock in a thread could not be given up."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up = time.monotonic() + deadline_s
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > give_up:
                raise StateError(f"oci:{root} is locked by another process for {deadline_s:g} s")
            time.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(descriptor)
