"""What two images share, told from their indexes alone; for ``cafs diff``. Pure.

Content is compared by identity, not by name or time: chunks by digest; files by the pieces of chunks that
hold them. Two files with the same pieces are equal; a small file that was packed into different chunks
in the two images counts as different, as its bytes are indeed fetched and stored twice.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import blake3

from cafs.core.readplan import plan_slices
from cafs.index.browse import walk
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import LayerNid, MergedTree
from cafs.index.reader import ErofsReader
from cafs.index.table_array import plain_sizes, table_rows

_NUMBERS = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Total:
    """How many of something, and their bytes."""

    count: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Shared:
    """Two sides and what they have in common; everything distinct."""

    first: Total
    second: Total
    both: Total


@dataclass(frozen=True, slots=True)
class Sharing:
    """What two images share."""

    layers: Shared
    """By diffID; bytes of their data."""
    files: Shared
    """Visible regular files that are not empty, by content."""
    chunks: Shared
    """By digest; plain bytes."""
    stored: Shared
    """The same chunks; bytes of their frames."""


def compare(first: Sequence[LayerIndex], second: Sequence[LayerIndex]) -> Sharing:
    """Compare two images, given by their layers, lowest first."""
    chunks = _chunk_sizes(first), _chunk_sizes(second)
    return Sharing(
        layers=_share(*({i.header.diff_id: i.header.data_bytes for i in side} for side in (first, second))),
        files=_share(_file_sizes(first), _file_sizes(second)),
        chunks=_share(*({digest: plain for digest, (plain, _) in side.items()} for side in chunks)),
        stored=_share(*({digest: frame for digest, (_, frame) in side.items()} for side in chunks)),
    )


def _share(first: dict[bytes, int], second: dict[bytes, int]) -> Shared:
    # A frame may be of another size in the other image: what the first has counts.
    both = {key: size for key, size in first.items() if key in second}
    return Shared(*(Total(len(side), sum(side.values())) for side in (first, second, both)))


def _chunk_sizes(indexes: Sequence[LayerIndex]) -> dict[bytes, tuple[int, int]]:
    found: dict[bytes, tuple[int, int]] = {}
    for index in indexes:
        rows = table_rows(index)
        sizes = zip(plain_sizes(index).tolist(), rows["frame_bytes"].tolist(), strict=True)
        found.update(zip(rows["digest"].tolist(), sizes, strict=True))
    return found


def _file_sizes(indexes: Sequence[LayerIndex]) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    if not indexes:
        return found
    tree = MergedTree([ErofsReader(index.metadata, index.virtual_bytes) for index in indexes])
    for top in _regular_files(tree):
        size = tree.reader(top.layer).inode(top.nid).size
        if size:
            found[_identity(indexes[top.layer], tree.reader(top.layer), top.nid, size)] = size
    return found


def _regular_files(tree: MergedTree) -> Iterator[LayerNid]:
    seen: set[LayerNid] = set()
    for _, stack in walk(tree, tree.root):
        top = stack[0]
        if stat.S_ISREG(tree.reader(top.layer).mode(top.nid)) and top not in seen:
            seen.add(top)
            yield top


def _identity(index: LayerIndex, reader: ErofsReader, nid: int, size: int) -> bytes:
    """Equal only for files of equal content."""
    extents = reader.extents(nid)
    identity = blake3.blake3(_NUMBERS.pack(size, isinstance(extents, bytes)))
    if isinstance(extents, bytes):
        identity.update(extents)
        return identity.digest()
    for file_offset, virtual_offset, length in extents:
        identity.update(_NUMBERS.pack(file_offset, length))
        for piece in plan_slices(index.table, virtual_offset, length):
            identity.update(index.table.row(piece.row).digest)
            identity.update(_NUMBERS.pack(piece.begin, piece.end))
    return identity.digest()
