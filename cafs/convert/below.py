"""The layers below the one that is converted, where an entry speaks of what only they have.

A hard link may name a file of a lower layer, and a directory may be missing that a lower layer
describes. An unpacker on top of overlayfs copies both up; the conversion does the same, but refers to
the lower layer's chunks instead of copying bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass

from cafs.core.chunk import ChunkRef
from cafs.core.entry import Meta
from cafs.core.source import BlobRef
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import MergedTree, Stack, visible_xattrs
from cafs.index.reader import ErofsReader


@dataclass(frozen=True, slots=True)
class LowerRun:
    """A run of a lower file, as the chunks that cover it."""

    file_offset: int
    length: int
    skip: int
    """Bytes of the first chunk before the run."""
    chunks: tuple[tuple[ChunkRef, BlobRef], ...]


@dataclass(frozen=True, slots=True)
class LowerFile:
    """What lies at a path of the layers below."""

    meta: Meta
    size: int
    content: bytes | None
    """Inline content or symlink target."""
    runs: tuple[LowerRun, ...]


class Below:
    """The merged view of lower layers, lowest first."""

    def __init__(self, layers: Sequence[LayerIndex]) -> None:
        self._layers = layers
        self._tree = MergedTree([ErofsReader(layer.metadata, layer.virtual_bytes) for layer in layers])

    def directory(self, path: bytes) -> Meta | None:
        """The directory at ``path``, if it is one."""
        stack = self._find(path)
        if stack is None or not self._tree.inode(stack).is_directory:
            return None
        return self._meta(stack)

    def file(self, path: bytes) -> LowerFile | None:
        """What is at ``path`` and is no directory."""
        stack = self._find(path)
        if stack is None or self._tree.inode(stack).is_directory:
            return None
        inode, top = self._tree.inode(stack), stack[0]
        reader = self._tree.reader(top.layer)
        meta = self._meta(stack)
        if stat.S_ISLNK(meta.mode):
            return LowerFile(meta, inode.size, reader.symlink_target(top.nid), ())
        if not stat.S_ISREG(meta.mode):
            return LowerFile(meta, 0, None, ())
        content = reader.extents(top.nid)
        if isinstance(content, bytes):
            return LowerFile(meta, inode.size, content, ())
        index = self._layers[top.layer]
        return LowerFile(meta, inode.size, None, tuple(_run(index, *extent) for extent in content))

    def other_names(self, path: bytes) -> list[bytes]:
        """The further names of what is at ``path``. Walks the whole tree, if there are any at all."""
        stack = self._find(path)
        if stack is None or self._tree.inode(stack).nlink < 2:
            return []
        names, waiting = [], [(b"", self._tree.root)]
        while waiting:
            folder, directory = waiting.pop()
            for name, child in self._tree.children(directory):
                full = folder + b"/" + name if folder else name
                if child[0] == stack[0] and full != path:
                    names.append(full)
                elif self._tree.inode(child).is_directory:
                    waiting.append((full, child))
        return sorted(names)

    def _meta(self, stack: Stack) -> Meta:
        inode = self._tree.inode(stack)
        meta = inode.meta
        return Meta(meta.mode, meta.uid, meta.gid, meta.mtime_ns, meta.rdev, visible_xattrs(inode))

    def _find(self, path: bytes) -> Stack | None:
        if not self._layers:
            return None
        stack: Stack | None = self._tree.root
        for name in path.split(b"/") if path else ():
            if stack is None or not self._tree.inode(stack).is_directory:
                return None
            stack = self._tree.lookup(stack, name)
        return stack


def _run(index: LayerIndex, file_offset: int, virtual_offset: int, length: int) -> LowerRun:
    table = index.table
    first = row = table.find(virtual_offset)
    chunks = []
    while True:
        ref = table.row(row)
        chunks.append((ref, index.blobs[ref.blob]))
        if table.end(row) >= virtual_offset + length:
            return LowerRun(file_offset, length, virtual_offset - table.start(first), tuple(chunks))
        row += 1
