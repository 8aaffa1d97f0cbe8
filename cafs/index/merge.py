"""``MergedTree``: the layers of an image seen as one tree, as overlayfs would show them. Pure.

Used by the FUSE tree driver and by ``cafs ls``, ``cat`` and ``diff``. Nothing is built or kept: a
merged directory is a *stack*, the tuple of the (layer, nid) that it is made of, top first; any other
file is a stack of one. The rules are overlayfs's: a whiteout or a non-directory hides what is below
it, an opaque directory ends the stack, directories of the same path are merged and the top one's
attributes count.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import NamedTuple

from cafs.core.erofs import FILE_TYPES, OPAQUE_XATTR, OVERLAY_XATTRS
from cafs.errors import IntegrityError
from cafs.index.reader import ErofsReader, Inode

_DIRECTORY = FILE_TYPES[stat.S_IFDIR]
_CHAR_DEVICE = FILE_TYPES[stat.S_IFCHR]


class LayerNid(NamedTuple):
    """An inode of one layer."""

    layer: int
    """Number of the layer, 0 is the lowest."""
    nid: int


Stack = tuple[LayerNid, ...]


class MergedTree:
    """Layers, lowest first. Every method may raise IntegrityError for a damaged layer."""

    def __init__(self, readers: Sequence[ErofsReader]) -> None:
        if not readers:
            raise ValueError("an image has at least one layer")
        self._readers = tuple(readers)

    @property
    def root(self) -> Stack:
        """The root directory."""
        layers = range(len(self._readers) - 1, -1, -1)
        return self._until_opaque([LayerNid(layer, self._readers[layer].root_nid) for layer in layers])

    def reader(self, layer: int) -> ErofsReader:
        """The reader of a layer."""
        return self._readers[layer]

    def inode(self, stack: Stack) -> Inode:
        """Attributes of a merged file: those of its top. ``trusted.overlay.*`` xattrs are still there."""
        top = stack[0]
        return self._readers[top.layer].inode(top.nid)

    def children(self, stack: Stack) -> list[tuple[bytes, Stack]]:
        """(name, stack) of every visible entry of a merged directory, sorted bytewise."""
        if len(stack) == 1:
            return self._children_of_one(stack[0])
        found: dict[bytes, list[LayerNid]] = {}
        closed: set[bytes] = set()
        for layer, nid in stack:
            reader = self._readers[layer]
            for name, child, file_type in reader.entries(nid):
                if name in closed:
                    continue
                if file_type == _DIRECTORY:
                    found.setdefault(name, []).append(LayerNid(layer, child))
                    if _is_opaque(reader.inode(child)):
                        closed.add(name)
                    continue
                closed.add(name)
                if name not in found and not self._is_whiteout(layer, child, file_type):
                    found[name] = [LayerNid(layer, child)]
        return [(name, tuple(found[name])) for name in sorted(found)]

    def lookup(self, stack: Stack, name: bytes) -> Stack | None:
        """The entry ``name`` of a merged directory."""
        parts: list[LayerNid] = []
        for layer, nid in stack:
            child = self._readers[layer].lookup(nid, name)
            if child is None:
                continue
            inode = self._readers[layer].inode(child)
            if not inode.is_directory:
                if not parts and not inode.is_whiteout:
                    parts.append(LayerNid(layer, child))
                break
            parts.append(LayerNid(layer, child))
            if _is_opaque(inode):
                break
        return tuple(parts) or None

    def _children_of_one(self, top: LayerNid) -> list[tuple[bytes, Stack]]:
        layer, nid = top
        return [
            (name, (LayerNid(layer, child),))
            for name, child, file_type in self._readers[layer].entries(nid)
            if not self._is_whiteout(layer, child, file_type)
        ]

    def _is_whiteout(self, layer: int, nid: int, file_type: int) -> bool:
        return file_type == _CHAR_DEVICE and self._readers[layer].inode(nid).is_whiteout

    def _until_opaque(self, parts: list[LayerNid]) -> Stack:
        kept: list[LayerNid] = []
        for part in parts:
            inode = self._readers[part.layer].inode(part.nid)
            if not inode.is_directory:
                raise IntegrityError(f"the root of layer {part.layer} is no directory")
            kept.append(part)
            if _is_opaque(inode):
                break
        return tuple(kept)


def visible_xattrs(inode: Inode) -> tuple[tuple[bytes, bytes], ...]:
    """The xattrs of a merged file: overlayfs keeps its own to itself."""
    return tuple(pair for pair in inode.meta.xattrs if not pair[0].startswith(OVERLAY_XATTRS))


def _is_opaque(inode: Inode) -> bool:
    return OPAQUE_XATTR in inode.meta.xattrs
