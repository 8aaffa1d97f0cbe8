"""Layers for mount tests: a ``LayerTree`` with content, as an index file and a chunk blob on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import zstandard

from cafs.core.chunk import ChunkRef, Codec, chunk_digest
from cafs.core.digest import sha256_digest
from cafs.core.entry import Extent, Meta
from cafs.core.source import BlobRef
from cafs.errors import RemoteError
from cafs.index.header import ChunkingOptions
from cafs.index.tree import INLINE_MAX_BYTES, LayerTree
from cafs.index.writer import write_index
from cafs.oci.descriptor import Descriptor
from cafs.oci.repository import Repository
from tests.support.converted import MadeLayer, push_converted

CHUNK_BYTES = 16 << 10
BLOCK = 4096
OPTIONS = ChunkingOptions(CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 1)


class Layer:
    """A tree under construction with the data region that goes with it."""

    def __init__(self) -> None:
        self.tree = LayerTree()
        self._data = bytearray()

    def file(self, path: bytes, meta: Meta, content: bytes) -> None:
        """A regular file; small ones are kept in the index."""
        if len(content) <= INLINE_MAX_BYTES:
            self.tree.add_file(path, meta, len(content), content=content)
        else:
            self.tree.add_file(path, meta, len(content), self._extents([(0, content)]))

    def sparse(self, path: bytes, meta: Meta, size: int, pieces: list[tuple[int, bytes]]) -> None:
        """A file with holes; each piece starts and ends at a multiple of 4096."""
        self.tree.add_file(path, meta, size, self._extents(pieces))

    def write(self, directory: Path, number: int) -> Path:
        """Write ``NUMBER.index`` and ``NUMBER.blob``."""
        (directory / f"{number}.blob").write_bytes(self._data)
        path = directory / f"{number}.index"
        with path.open("wb") as file:
            self.write_to(file, number)
        return path

    def write_to(self, file: BinaryIO, number: int) -> None:
        """Write the index."""
        data = bytes(self._data)
        rows = []
        for start in range(0, len(data), CHUNK_BYTES):
            plain = data[start : start + CHUNK_BYTES]
            ref = ChunkRef(chunk_digest(plain), len(plain), 0, start, len(plain), Codec.RAW)
            rows.append((start + len(plain), ref))
        blobs = [BlobRef(sha256_digest(data), len(data))] if data else []
        diff_id = hashlib.sha256(pretended_tar(number)).digest()
        write_index(file, self.tree, rows, blobs, data_bytes=len(data), diff_id=diff_id, options=OPTIONS)

    def _extents(self, pieces: list[tuple[int, bytes]]) -> list[Extent]:
        extents = []
        for file_offset, content in pieces:
            extents.append(Extent(file_offset, len(self._data), len(content)))
            self._data += content + bytes(-len(content) % BLOCK)
        return extents


def pretended_tar(number: int) -> bytes:
    """What stands for the image layer's own bytes: nobody looks into it."""
    return b"the tar of layer %d" % number


async def push_layers(repository: Repository, directory: Path, tag: str = "v1") -> Descriptor:
    """Push what ``Layer.write`` wrote, as a converted image; answers the image's descriptor."""
    image, _artifact = await push_converted(repository, _made(directory), tag)
    return image


def _made(directory: Path) -> list[MadeLayer]:
    made = []
    for number in range(len(list(directory.glob("*.index")))):
        index = (directory / f"{number}.index").read_bytes()
        content = (directory / f"{number}.blob").read_bytes()
        made.append(MadeLayer(pretended_tar(number), content, index, zstandard.compress(index)))
    return made


class FileSource:
    """A ``BlobSource`` over one file; ``broken`` says when to fail, as a registry that is away."""

    def __init__(self, path: Path, broken: Callable[[], bool]) -> None:
        self.name = path.name
        self._path = path
        self._broken = broken

    async def read_range(self, blob: BlobRef, offset: int, length: int) -> bytes:
        """See ``BlobSource``."""
        if self._broken():
            raise RemoteError(f"{self.name} is away")
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(length)
