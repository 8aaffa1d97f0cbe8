"""The tree that kernel EROFS is mounted from: ``layers/<digest>``, each file a layer's virtual image.

Used by the driver ``erofs``, whose layers are the same from first to last, and by the mount server, whose
layers come and go. Node ids are the caller's: they must mean the same in every server of a mount, so they are
positions in what is written down, or are written down themselves.

A layer that is taken away loses its name at once. Its node goes on answering as long as the kernel holds it,
because somebody may still read it: an EROFS that is mounted, a mount in another namespace. Names have a
lifetime of 0: the kernel asks for each use, and once it has asked for a name in vain it lets go of the node
with the last user, and says so by FORGET.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from typing import Protocol

from cafs.fuse import abi, replies
from cafs.fuse.answers import NoSuchNodeError, WrongKindError
from cafs.fuse.holdings import Holdings
from cafs.fuse.replies import DirectoryEntry, Listing
from cafs.fuse.tree import Buffer

LAYERS = b"layers"
LAYERS_NODE = 2
FIRST_LAYER_NODE = 16


class VirtualImage(Protocol):
    """What this tree needs of a layer; ``cafs.fetch`` has it."""

    @property
    def virtual_bytes(self) -> int:
        """Size of the virtual image."""
        ...

    @property
    def about(self) -> str:
        """Names it in log lines."""
        ...

    def try_read(self, offset: int, size: int) -> Sequence[Buffer] | None:
        """The bytes when they are in memory."""
        ...

    async def read(self, offset: int, size: int) -> Sequence[Buffer]:
        """The bytes, waiting for them."""
        ...


class FlatTree:
    """``/layers/<name>`` for named virtual images. A ``FileTree``."""

    def __init__(
        self,
        images: Sequence[tuple[str, VirtualImage]] = (),
        *,
        holdings: Holdings | None = None,
        released: Callable[[int], None] = lambda _node: None,
    ) -> None:
        """
        Args:
            images: The first ones; their node ids are their positions.
            holdings: What the kernel holds, also since earlier servers; None: not kept track of.
            released: Told each node that the kernel has let go of.
        """
        self._images: dict[int, VirtualImage] = {}
        self._node_of: dict[bytes, int] = {}
        self._holdings = holdings or Holdings(memoryview(b""), FIRST_LAYER_NODE)
        self._released = released
        for position, (name, image) in enumerate(images):
            self.add(FIRST_LAYER_NODE + position, name, image)

    def add(self, node: int, name: str | None, image: VirtualImage) -> None:
        """Show an image.

        Args:
            node: Never used for another one in the life of the mount; ``FIRST_LAYER_NODE`` or higher.
            name: None: it had been hidden, and somebody may still read it.
            image: What to show.
        """
        self._images[node] = image
        if name is not None:
            self._node_of[name.encode()] = node

    def hide(self, name: str) -> None:
        """Take a name away; its node still answers."""
        self._node_of.pop(name.encode(), None)

    def drop(self, node: int) -> None:
        """Nothing is left of this node."""
        self._images.pop(node, None)

    def is_held(self, node: int) -> bool:
        """Whether the kernel may still know the node: it is mounted, open, or was a moment ago."""
        return self._holdings.is_held(node)

    def lookup(self, parent: int, name: bytes) -> bytes | None:
        """See ``FileTree``."""
        if (parent, name) == (abi.ROOT_ID, LAYERS):
            return replies.encode_entry(LAYERS_NODE, self.attributes(LAYERS_NODE))
        if parent != LAYERS_NODE:
            return None
        node = self._node_of.get(name)
        if node is None:
            return replies.encode_passing_absence()
        self._holdings.note_lookup(node)
        return replies.encode_passing_entry(node, self.attributes(node))

    def attributes(self, node: int) -> bytes:
        """See ``FileTree``."""
        if node in {abi.ROOT_ID, LAYERS_NODE}:
            return _attr(node, 0, stat.S_IFDIR | 0o500, 3 if node == abi.ROOT_ID else 2)
        return _attr(node, self._image(node).virtual_bytes, stat.S_IFREG | 0o400, 1)

    def symlink_target(self, node: int) -> bytes:
        """There are no symlinks."""
        raise WrongKindError(errno.EINVAL, f"node {node} is no symlink")

    def listing(self, node: int) -> Listing:
        """See ``FileTree``. Names only, which the kernel does not keep."""
        if node == abi.ROOT_ID:
            names = {LAYERS: LAYERS_NODE}
        elif node == LAYERS_NODE:
            names = self._node_of
        else:
            raise WrongKindError(errno.ENOTDIR, f"node {node} is no directory")
        return replies.encode_listing(_entry(name, child) for name, child in names.items())

    def xattr(self, node: int, name: bytes) -> bytes | None:
        """There are none."""
        return None

    def xattr_names(self, node: int) -> Sequence[bytes]:
        """There are none."""
        return ()

    def open_flags(self, node: int) -> int | None:
        """See ``FileTree``. EROFS keeps what it reads in its own files' page cache: another one below would
        hold all of it twice, and its read-ahead would fetch the neighbours of what is wanted."""
        self._image(node)
        return abi.FOPEN_DIRECT_IO

    def try_read(self, node: int, offset: int, size: int) -> Sequence[Buffer] | None:
        """See ``FileTree``."""
        return self._image(node).try_read(offset, size)

    async def read(self, node: int, offset: int, size: int) -> Sequence[Buffer]:
        """See ``FileTree``."""
        return await self._image(node).read(offset, size)

    def forget(self, nodes: Sequence[tuple[int, int]]) -> None:
        """See ``FileTree``."""
        for node, count in nodes:
            if self._holdings.take_back(node, count):
                self._released(node)

    def describe(self, node: int) -> str:
        """See ``FileTree``."""
        image = self._images.get(node)
        return f"node={node:#x}" if image is None else f"node={node:#x} {image.about}"

    def total_bytes(self) -> int:
        """See ``FileTree``."""
        return sum(image.virtual_bytes for image in self._images.values())

    def total_files(self) -> int:
        """See ``FileTree``."""
        return len(self._images)

    def _image(self, node: int) -> VirtualImage:
        image = self._images.get(node)
        if image is None:
            raise NoSuchNodeError(f"there is no node {node}")
        return image


def _entry(name: bytes, node: int) -> DirectoryEntry:
    kind = stat.S_IFDIR if node == LAYERS_NODE else stat.S_IFREG
    return DirectoryEntry(name, node, b"", node, kind >> 12)


def _attr(node: int, size: int, mode: int, nlink: int) -> bytes:
    return replies.encode_attr(ino=node, size=size, mode=mode, nlink=nlink, uid=0, gid=0, mtime_ns=0)
