"""The tree that kernel EROFS is mounted from: ``layers/<digest>``, each file a layer's virtual image.

Used by the driver ``erofs``. Node ids are positions, which are the same in every server of a mount
because the order of the layers is written down with the mount.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from typing import Protocol

from cafs.fuse import abi, replies
from cafs.fuse.answers import NoSuchNodeError, WrongKindError
from cafs.fuse.replies import DirectoryEntry, Listing
from cafs.fuse.tree import Buffer

LAYERS_NODE = 2
FIRST_LAYER_NODE = 16


class VirtualImage(Protocol):
    """What this tree needs of a layer; ``cafs.fetch`` has it."""

    @property
    def virtual_bytes(self) -> int:
        """Size of the virtual image."""
        ...

    def try_read(self, offset: int, size: int) -> Sequence[Buffer] | None:
        """The bytes when they are in memory."""
        ...

    async def read(self, offset: int, size: int) -> Sequence[Buffer]:
        """The bytes, waiting for them."""
        ...


class FlatTree:
    """``/layers/<name>`` for some named virtual images. A ``FileTree``."""

    def __init__(self, images: Sequence[tuple[str, VirtualImage]]) -> None:
        self._images = [image for _name, image in images]
        self._node_of = {name.encode(): FIRST_LAYER_NODE + i for i, (name, _image) in enumerate(images)}

    def lookup(self, parent: int, name: bytes) -> bytes | None:
        """See ``FileTree``."""
        node = LAYERS_NODE if (parent, name) == (abi.ROOT_ID, b"layers") else None
        if parent == LAYERS_NODE:
            node = self._node_of.get(name)
        return None if node is None else replies.encode_entry(node, self.attributes(node))

    def attributes(self, node: int) -> bytes:
        """See ``FileTree``."""
        if node in {abi.ROOT_ID, LAYERS_NODE}:
            return _attr(node, 0, stat.S_IFDIR | 0o500, 3 if node == abi.ROOT_ID else 2)
        return _attr(node, self._image(node).virtual_bytes, stat.S_IFREG | 0o400, 1)

    def symlink_target(self, node: int) -> bytes:
        """There are no symlinks."""
        raise WrongKindError(errno.EINVAL, f"node {node} is no symlink")

    def listing(self, node: int) -> Listing:
        """See ``FileTree``."""
        if node == abi.ROOT_ID:
            names = {b"layers": LAYERS_NODE}
        elif node == LAYERS_NODE:
            names = self._node_of
        else:
            raise WrongKindError(errno.ENOTDIR, f"node {node} is no directory")
        return replies.encode_listing(self._entry(name, child) for name, child in names.items())

    def xattr(self, node: int, name: bytes) -> bytes | None:
        """There are none."""
        return None

    def xattr_names(self, node: int) -> Sequence[bytes]:
        """There are none."""
        return ()

    def try_read(self, node: int, offset: int, size: int) -> Sequence[Buffer] | None:
        """See ``FileTree``."""
        return self._image(node).try_read(offset, size)

    async def read(self, node: int, offset: int, size: int) -> Sequence[Buffer]:
        """See ``FileTree``."""
        return await self._image(node).read(offset, size)

    def total_bytes(self) -> int:
        """See ``FileTree``."""
        return sum(image.virtual_bytes for image in self._images)

    def total_files(self) -> int:
        """See ``FileTree``."""
        return len(self._images)

    def _entry(self, name: bytes, node: int) -> DirectoryEntry:
        kind = stat.S_IFDIR if node == LAYERS_NODE else stat.S_IFREG
        return DirectoryEntry(name, node, self.attributes(node), node, kind >> 12)

    def _image(self, node: int) -> VirtualImage:
        position = node - FIRST_LAYER_NODE
        if not 0 <= position < len(self._images):
            raise NoSuchNodeError(f"there is no node {node}")
        return self._images[position]


def _attr(node: int, size: int, mode: int, nlink: int) -> bytes:
    return replies.encode_attr(ino=node, size=size, mode=mode, nlink=nlink, uid=0, gid=0, mtime_ns=0)
