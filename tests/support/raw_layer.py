"""A layer made from a few files without converting anything: its chunks are raw and of one size."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from cafs.core.chunk import ChunkRef, Codec, chunk_digest
from cafs.core.digest import sha256_digest
from cafs.core.entry import Extent, Meta
from cafs.core.source import BlobRef
from cafs.index.layer_index import LayerIndex
from cafs.index.tree import LayerTree
from cafs.index.writer import write_index
from tests.support.converted import OPTIONS

BLOCK = 4096
CHUNK = 16 << 10


def open_layer(
    folder: Path, files: Mapping[bytes, bytes], links: Mapping[bytes, bytes]
) -> tuple[LayerIndex, bytes]:
    """The index of a layer of these files and symlinks, and its chunk blob of raw chunks."""
    tree, data = LayerTree(), bytearray()
    for path in sorted({path.rpartition(b"/")[0] for path in (*files, *links)} - {b""}):
        parts = path.split(b"/")
        for depth in range(1, len(parts) + 1):
            tree.add_directory(b"/".join(parts[:depth]), Meta(0o040755))
    for path, content in files.items():
        tree.add_file(path, Meta(0o100755), len(content), extents=(Extent(0, len(data), len(content)),))
        data += content + bytes(-len(content) % BLOCK)
    for path, target in links.items():
        tree.add_symlink(path, Meta(0o120777), target)
    blob = bytes(data)
    rows = [
        (
            min(begin + CHUNK, len(blob)),
            ChunkRef(chunk_digest(part), len(part), 0, begin, len(part), Codec.RAW),
        )
        for begin in range(0, len(blob), CHUNK)
        for part in [blob[begin : begin + CHUNK]]
    ]
    file = io.BytesIO()
    blobs = [BlobRef(sha256_digest(blob), len(blob))]
    diff_id = hashlib.sha256(blob).digest()
    write_index(file, tree, rows, blobs, data_bytes=len(blob), diff_id=diff_id, options=OPTIONS)
    path = folder / "index"
    path.write_bytes(file.getvalue())
    return LayerIndex.open(path), blob
