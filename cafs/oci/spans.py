"""Runs of bytes on the local disk: what layouts and archives are made of.

A layout's blob is a whole file, an archive's is a part of one, a document made up for a Docker archive is
bytes in memory. Synchronous: callers in trio go through a worker thread.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple, Protocol

from cafs.errors import IntegrityError, NotFoundError, StorageError


class Span(NamedTuple):
    """``size`` bytes at ``offset`` of a file, or of ``content``."""

    path: Path
    offset: int
    size: int
    content: bytes | None = None

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset`` of the span.

        Raises:
            IntegrityError: the span ends before.
            StorageError: the file cannot be read.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise IntegrityError(f"{self.path} has no bytes {offset}..{offset + length}: it has {self.size}")
        if self.content is not None:
            return self.content[offset : offset + length]
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return _read_exactly(descriptor, self.offset + offset, length, self.path)
            finally:
                os.close(descriptor)
        except OSError as e:
            raise StorageError(f"cannot read {self.path}: {e.strerror}") from e


def _read_exactly(descriptor: int, offset: int, length: int, path: Path) -> bytes:
    pieces = []
    while length:
        piece = os.pread(descriptor, length, offset)
        if not piece:
            raise IntegrityError(f"{path} ended while it was read: it was cut short")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class FileTree(Protocol):
    """Files by relative name. Thread-safe."""

    @property
    def name(self) -> str:
        """For messages, as the user wrote it: ``oci:DIR``."""
        ...

    def find(self, name: str) -> Span | None:
        """The file called ``name``; None when there is none.

        Raises:
            IntegrityError: it is no regular file.
            StorageError: it cannot be looked at.
        """
        ...


class DirectoryTree:
    """The files below a directory."""

    def __init__(self, root: Path, name: str) -> None:
        self._root = root
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def find(self, name: str) -> Span | None:
        """See ``FileTree``. ``name`` is made of checked digests and constants, never of foreign text."""
        path = self._root / name
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as e:
            raise StorageError(f"cannot read {path}: {e.strerror}") from e
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{path} is not a regular file")
        return Span(path, 0, status.st_size)


def read_file(tree: FileTree, name: str, limit: int) -> bytes:
    """A small file as a whole.

    Raises:
        NotFoundError: it is not there.
        IntegrityError: it is larger than ``limit``.
    """
    span = tree.find(name)
    if span is None:
        raise NotFoundError(f"{tree.name} has no file {name}")
    if span.size > limit:
        raise IntegrityError(f"{tree.name}: {name} has {span.size} bytes, more than the {limit} allowed")
    return span.read(0, span.size)
