"""``MergedIndex``: the metadata of a whole image, its layers merged into one tree for the kernel's EROFS.

A file that this machine makes for itself, from indexes that were checked (``cafs.index.merge_layers``), so
that an image of several layers is one EROFS mount, without overlayfs over it. It holds no chunk table: the
layers' indexes stay what data is read by. Format: docs/formats.md.

The merged virtual image is the merged metadata, then the data regions of the layers, lowest first.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from cafs.errors import IntegrityError
from cafs.index.mapped_file import map_file

HEADER_BYTES = 4096
MAGIC = b"CAFSMRG1"
_HEADER = struct.Struct("<8sQ32s")
"""magic, metadata_bytes, sha256 of the metadata."""


class MergedIndex:
    """Made by ``open``; nothing in it changes."""

    def __init__(self, mapping: mmap.mmap, path: Path) -> None:
        self.path = path
        self._mapping = mapping
        self._file = memoryview(mapping)
        if len(self._file) < HEADER_BYTES:
            raise IntegrityError(f"{path} is no merged index: too short")
        magic, metadata_bytes, self._sha256 = _HEADER.unpack_from(self._file)
        if magic != MAGIC or HEADER_BYTES + metadata_bytes != len(self._file):
            raise IntegrityError(f"{path} is no merged index, or not a whole one")
        self.metadata = self._file[HEADER_BYTES:]
        """The EROFS metadata region."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Map the file.

        Raises:
            NotFoundError: there is none.
            StorageError: it cannot be read.
            IntegrityError: it is no merged index.
        """
        return cls(map_file(path, "merged index"), path)

    def verify(self) -> None:
        """
        Raises:
            IntegrityError: it is not as it was made.
        """
        if hashlib.sha256(self.metadata).digest() != self._sha256:
            raise IntegrityError(f"merged index {self.path} does not match its digest")

    def close(self) -> None:
        """Give the map back, unless somebody still holds a view of it: then it goes with the view."""
        with contextlib.suppress(BufferError):
            self.metadata.release()
            self._file.release()
            self._mapping.close()


def encode_merged_header(metadata: memoryview) -> bytes:
    """The header of a file with this metadata."""
    return _HEADER.pack(MAGIC, len(metadata), hashlib.sha256(metadata).digest())


def merged_name(index_digests: Iterable[str]) -> str:
    """The name of the file that is made from indexes with these digests, lowest layer first: 64 digits."""
    return hashlib.sha256("\n".join([MAGIC.decode(), *index_digests]).encode()).hexdigest()
