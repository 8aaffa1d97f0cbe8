"""A small converted image, made by hand: one layer with one file, its index, chunk blob and artifact."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import zstandard

from cafs.core.chunk import ChunkRef, Codec, chunk_digest
from cafs.core.entry import Extent, Meta
from cafs.index.header import ChunkingOptions
from cafs.index.tree import LayerTree
from cafs.index.writer import write_index
from cafs.oci.artifact import ArtifactLayer, publish_artifact
from cafs.oci.descriptor import Descriptor
from cafs.oci.media_types import LAYER_CHUNKS, LAYER_INDEX
from cafs.oci.repository import Repository
from tests.support.oci import descriptor_of, push_bytes, push_image

OPTIONS = ChunkingOptions(16384, 65536, 262144, 3)


@dataclass(frozen=True)
class MadeLayer:
    """A layer's index file and its only chunk."""

    layer: bytes
    content: bytes
    index_file: bytes
    packed: bytes
    """The index as it is stored."""

    def artifact_layer(self, **changes: Any) -> ArtifactLayer:
        digest = descriptor_of(self.layer).digest
        known: dict[str, Any] = {
            "layer_digest": digest,
            "diff_id": digest,
            "index": descriptor_of(self.packed, LAYER_INDEX),
            "index_digest": descriptor_of(self.index_file).digest,
            "index_size": len(self.index_file),
            "options": "test",
            "chunks": descriptor_of(self.content, LAYER_CHUNKS),
        }
        return ArtifactLayer(**{**known, **changes})


def make_layer(number: int) -> MadeLayer:
    """A layer whose tar is pretended, with the file ``file<number>`` of two blocks."""
    layer = b"the tar of layer %d" % number
    content = hashlib.shake_128(b"%d" % number).digest(8192)
    tree = LayerTree()
    tree.add_file(b"file%d" % number, Meta(0o100644), len(content), extents=(Extent(0, 0, len(content)),))
    row = ChunkRef(chunk_digest(content), len(content), 0, 0, len(content), Codec.RAW)
    file = io.BytesIO()
    write_index(
        file,
        tree,
        [(len(content), row)],
        [descriptor_of(content).blob],
        data_bytes=len(content),
        diff_id=hashlib.sha256(layer).digest(),
        options=OPTIONS,
    )
    return MadeLayer(layer, content, file.getvalue(), zstandard.compress(file.getvalue()))


async def push_converted(
    repository: Repository, made: list[MadeLayer], tag: str | None = "v1"
) -> tuple[Descriptor, Descriptor]:
    """Push an image of these layers and its artifact; answers the descriptors of both."""
    image = await push_image(repository, [m.layer for m in made], tag)
    for m in made:
        await push_bytes(repository, m.packed)
        await push_bytes(repository, m.content)
    artifact = await publish_artifact(repository, image, [m.artifact_layer() for m in made])
    return image, artifact
