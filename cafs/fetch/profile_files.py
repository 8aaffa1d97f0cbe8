"""Which files of an image the chunks of a profile belong to: for people who look at one."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cafs.core.profile import Profile, locate
from cafs.fetch.open_image import OpenLayer
from cafs.index.browse import walk
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import MergedTree


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file of which a profile names chunks."""

    path: bytes
    read_bytes: int
    """Of its content, that lie in these."""


def files_read(tree: MergedTree, layers: Sequence[OpenLayer], profile: Profile) -> list[FileRead]:
    """The files, in the order in which a start reads them first. Looks at every file of the image.

    Args:
        tree: Of the image.
        layers: The image's, lowest first.
        profile: What is read.

    Raises:
        IntegrityError: a layer is damaged.
    """
    read = [_rows_read(layer, profile) for layer in layers]
    found = []
    for path, stack in walk(tree, tree.root):
        top = stack[0]
        reader = tree.reader(top.layer)
        if not stat.S_ISREG(reader.mode(top.nid)):
            continue
        extents = reader.extents(top.nid)
        if isinstance(extents, bytes):
            continue
        parts = [
            part
            for _, begin, length in extents
            for part in _parts(layers[top.layer].index, read[top.layer], begin, begin + length)
        ]
        if parts:
            first = min(place for place, _ in parts)
            found.append((first, FileRead(path, sum(size for _, size in parts))))
    return [file for _, file in sorted(found, key=lambda one: (one[0], one[1].path))]


def _rows_read(layer: OpenLayer, profile: Profile) -> dict[int, int]:
    """The layer's rows that are read, with their places in the profile."""
    rows = locate(layer.index.table, profile.of_layer(layer.diff_id))
    places: dict[int, int] = {}
    for place, (number, prefix) in enumerate(profile.chunks):
        if profile.layers[number] == layer.diff_id and prefix in rows:
            places.setdefault(rows[prefix], place)
    return places


def _parts(index: LayerIndex, read: dict[int, int], begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Of each chunk between two offsets of the virtual image that is read: its place, and bytes between."""
    table = index.table
    if not read or end <= begin:
        return
    for row in range(table.find(begin), table.find(end - 1) + 1):
        if row in read:
            yield read[row], min(end, table.end(row)) - max(begin, table.start(row))
