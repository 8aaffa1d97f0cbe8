"""An image whose bytes are not to be compressed, in a registry of the case's own, and its chunks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cafs.core.chunk_ref import ChunkRef
from cafs.core.source import BlobRef
from cafs.index.layer_index import LayerIndex
from demo.cafs_command import CafsHome
from demo.process import DemoError

_FILE_BYTES = 4 << 20


def push_random_image(place: Path, registry: str, reference: str, size: int, inside: Sequence[str]) -> None:
    """Convert so many random bytes, in files of 4 MiB, and push the result.

    Args:
        place: Where the files are while this lasts.
        registry: HOST:PORT, as it is reached from ``inside``.
        reference: What it will be called.
        size: Bytes.
        inside: Words before a command on the registry's side.
    """
    tree = place / "tree"
    tree.mkdir()
    for number in range(size // _FILE_BYTES):
        (tree / f"f{number:04}").write_bytes(os.urandom(_FILE_BYTES))
    CafsHome(place / "near", tuple(inside), (registry,)).call("convert", f"dir:{tree}", reference)


def chunks_of(home: CafsHome) -> tuple[BlobRef, list[ChunkRef]]:
    """The chunks of the one image that ``home`` has mounted, in their order in the blob."""
    [path, *others] = (home.place / "cache/index").glob("[0-9a-f]" * 64)
    if others:
        raise DemoError("the host has several layer indexes")
    with LayerIndex.open(path) as index:
        refs = {ref.digest: ref for _, ref in index.table.rows(0, len(index.table))}
        return index.blobs[0], sorted(refs.values(), key=lambda ref: ref.offset)
