"""Puts a converted layer's files into a repository and describes them for the artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import trio
import zstandard

from cafs.convert.layer import LayerFiles
from cafs.convert.memory import ConvertedLayer
from cafs.core.digest import Digest
from cafs.core.source import BlobRef
from cafs.oci.artifact import ArtifactLayer
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import LAYER_CHUNKS, LAYER_INDEX
from cafs.oci.repository import Repository

_PIECE_BYTES = 1 << 20
_INDEX_LEVEL = 6
"""An index is small and is fetched by every node: worth a little more time than data."""


async def push_layer(
    repository: Repository, files: LayerFiles, layer_digest: Digest, options: str, parent: Digest | None
) -> ConvertedLayer:
    """Push index and chunk blob; chunk blobs of other layers are the caller's business."""
    packed = files.index.with_suffix(".index.zst")
    index, plain = await trio.to_thread.run_sync(_pack, files.index, packed)
    await repository.push_blob(packed, index, hashed=True)
    own = files.finished.chunks
    if own is not None:
        await repository.push_blob(files.chunks, own, hashed=True)
    layer = ArtifactLayer(
        layer_digest,
        files.diff_id,
        Descriptor(index.digest, index.size, LAYER_INDEX),
        plain.digest,
        plain.size,
        options,
        parent if files.finished.header.parent_chain_id is not None else None,
        Descriptor(own.digest, own.size, LAYER_CHUNKS) if own is not None else None,
    )
    return ConvertedLayer(layer, files.finished.other_blobs)


def _pack(plain: Path, packed: Path) -> tuple[BlobRef, BlobRef]:
    """One zstd frame with its content size; digests and sizes of the packed and the plain file."""
    size = plain.stat().st_size
    plain_hash, packed_hash = hashlib.sha256(), hashlib.sha256()
    compressor = zstandard.ZstdCompressor(level=_INDEX_LEVEL, write_content_size=True).compressobj(size)
    with plain.open("rb") as source, packed.open("wb") as target:
        while piece := source.read(_PIECE_BYTES):
            plain_hash.update(piece)
            _write(target.write, packed_hash.update, compressor.compress(piece))
        _write(target.write, packed_hash.update, compressor.flush())
        packed_size = target.tell()
    return _ref(packed_hash, packed_size), _ref(plain_hash, size)


def _write(write: Callable[[bytes], object], update: Callable[[bytes], object], data: bytes) -> None:
    write(data)
    update(data)


def _ref(hasher: hashlib._Hash, size: int) -> BlobRef:
    return BlobRef(Digest("sha256:" + hasher.hexdigest()), size)
