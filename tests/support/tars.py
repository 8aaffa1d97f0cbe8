"""Tars made for tests, and what the converter makes of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cafs.convert.below import Below
from cafs.convert.compress import ChunkWriter
from cafs.convert.feeds import tar_feed
from cafs.convert.known_chunks import KnownChunks
from cafs.convert.layer_builder import LayerBuilder
from cafs.convert.plain_stream import HashedPieces, PlainStream
from cafs.convert.tar_reader import TarReader
from cafs.core.chunk import decode_frame
from cafs.core.chunking import ChunkingOptions
from cafs.core.tar import Entry
from cafs.index.check import check_index
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from cafs.index.scratch import Scratch


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **more: object
) -> tuple[tarfile.TarInfo, bytes]:
    """A tarfile member with some attributes set."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def make_tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read_entries(archive: bytes, piece: int = 1 << 16) -> list[tuple[Entry, bytes]]:
    """Every entry with its stored data."""
    reader = TarReader(plain_stream(archive, piece))
    found = []
    for entry in reader.entries():
        data = bytearray(sum(n for _, n in entry.runs) if entry.runs is not None else entry.stored_bytes)
        reader.fill(memoryview(data))
        found.append((entry, bytes(data)))
    return found


def plain_stream(content: bytes, piece: int = 1 << 16) -> PlainStream:
    """The stream of a layer that comes in such pieces."""
    return PlainStream(HashedPieces(pieces_of(content, piece)))


def pieces_of(content: bytes, size: int) -> Iterator[bytes]:
    return (content[at : at + size] for at in range(0, len(content), size))


@dataclass(frozen=True)
class Made:
    """A converted layer, opened."""

    index: LayerIndex
    blob: bytes
    index_file: bytes

    @property
    def reader(self) -> ErofsReader:
        return ErofsReader(self.index.metadata, self.index.virtual_bytes)

    def nid(self, path: bytes) -> int:
        nid = self.reader.root_nid
        for name in path.split(b"/"):
            found = self.reader.lookup(nid, name)
            assert found is not None, path
            nid = found
        return nid

    def content(self, path: bytes) -> bytes:
        """A file's bytes, through the chunk table."""
        nid = self.nid(path)
        runs = self.reader.extents(nid)
        if isinstance(runs, bytes):
            return runs
        found = bytearray(self.reader.inode(nid).size)
        for file_offset, virtual, length in runs:
            found[file_offset : file_offset + length] = self.virtual(virtual, length)
        return bytes(found)

    def virtual(self, offset: int, length: int) -> bytes:
        """Bytes of the virtual image's data region."""
        table, parts, at = self.index.table, [], offset
        while at < offset + length:
            row = table.find(at)
            ref = table.row(row)
            frame = self.blob[ref.offset : ref.offset + ref.frame_bytes]
            plain = decode_frame(ref.digest, ref.codec, frame, ref.plain_bytes).plain
            begin = at - table.start(row)
            parts.append(bytes(plain[begin : min(len(plain), begin + offset + length - at)]))
            at += len(parts[-1])
        return b"".join(parts)


def convert_tar(
    archive: bytes, folder: Path, *, workers: int = 2, piece: int = 1 << 20, below: Below | None = None
) -> Made:
    """Convert one layer without any repository."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Scratch(folder)
    known, options = KnownChunks(scratch), ChunkingOptions()
    index, chunks = folder / "index", folder / "chunks"
    with ThreadPoolExecutor(workers) as executor, index.open("wb") as to, chunks.open("wb") as blob:
        writer = ChunkWriter(blob, executor, known, options, scratch)
        try:
            builder = LayerBuilder(writer, known, options, scratch)
            diff_id = tar_feed(builder, plain_stream(archive, piece))
            builder.finish(to, diff_id, below, b"\1" * 32)
        finally:
            writer.close()
    opened = LayerIndex.open(index)
    check_index(opened)
    return Made(opened, chunks.read_bytes(), index.read_bytes())
