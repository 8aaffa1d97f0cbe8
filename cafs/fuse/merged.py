"""The tree of the driver ``fuse``: all layers of an image merged, as overlayfs would show them.

Used where the kernel's EROFS and overlayfs cannot be: without root, or on an old kernel. What is merged
how is ``cafs.index.merge``'s business; here are node ids, encoded answers, caches and reads.

Node id (also the inode number): bits 0-39 nid, bits 40-55 number of the top layer + 1, bit 56 set for a
directory that is merged of several layers. So a node means the same in every server, and only merged
directories need their stack: it is cached, and found again from the ``..`` entries up to the root.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cafs.errors import IntegrityError
from cafs.fuse import abi, replies
from cafs.fuse.answers import NoSuchNodeError, WrongKindError
from cafs.fuse.flat import VirtualImage
from cafs.fuse.inodes import LayerInodes, Run, encode_dots
from cafs.fuse.replies import DirectoryEntry, Listing
from cafs.fuse.tree import Buffer
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import LayerNid, MergedTree, Stack, visible_xattrs
from cafs.index.reader import ErofsReader

LISTING_CACHE_BYTES = 6 << 20
STACK_CACHE = 16384
"""Merged directories whose stacks are remembered."""
MAX_DEPTH = 4096
"""No path is deeper: PATH_MAX."""

_NID_BITS, _LAYER_BITS = 40, 16
_NID_MASK = (1 << _NID_BITS) - 1
_MERGED = 1 << (_NID_BITS + _LAYER_BITS)
_ZEROS = memoryview(bytes(1 << 20))


@dataclass(frozen=True, slots=True)
class MergedLayer:
    """One layer of the tree: its metadata, and where its bytes come from."""

    index: LayerIndex
    image: VirtualImage


class MergedFileTree:
    """A ``FileTree`` over layers, lowest first."""

    def __init__(self, layers: Sequence[MergedLayer]) -> None:
        self._images = [layer.image for layer in layers]
        self._inodes = [LayerInodes(layer.index.metadata, layer.index.virtual_bytes) for layer in layers]
        self._tree = MergedTree(
            [ErofsReader(layer.index.metadata, layer.index.virtual_bytes) for layer in layers]
        )
        self._total_bytes = sum(layer.index.header.data_bytes for layer in layers)
        self._total_files = sum(layer.index.header.inode_count for layer in layers)
        self._root = self._tree.root
        self._stacks: OrderedDict[int, Stack] = OrderedDict()
        self._listings: OrderedDict[int, Listing] = OrderedDict()
        self._listings_bytes = 0

    def lookup(self, parent: int, name: bytes) -> bytes | None:
        """See ``FileTree``."""
        stack = self._tree.lookup(self._stack(parent), name)
        if stack is None:
            return None
        node = self._node(stack)
        return replies.encode_entry(node, self._attr(node))

    def attributes(self, node: int) -> bytes:
        """See ``FileTree``."""
        return self._attr(node)

    def symlink_target(self, node: int) -> bytes:
        """See ``FileTree``."""
        layer, nid = self._top(node)
        return self._tree.reader(layer).symlink_target(nid)

    def listing(self, node: int) -> Listing:
        """See ``FileTree``."""
        known = self._listings.get(node)
        if known is not None:
            self._listings.move_to_end(node)
            return known
        listing = self._encode_listing(node)
        self._listings[node] = listing
        self._listings_bytes += len(listing.records)
        while self._listings_bytes > LISTING_CACHE_BYTES and len(self._listings) > 1:
            _node, oldest = self._listings.popitem(last=False)
            self._listings_bytes -= len(oldest.records)
        return listing

    def xattr(self, node: int, name: bytes) -> bytes | None:
        """See ``FileTree``."""
        return dict(self._xattrs(node)).get(name)

    def xattr_names(self, node: int) -> Sequence[bytes]:
        """See ``FileTree``."""
        return [name for name, _value in self._xattrs(node)]

    def open_flags(self, node: int) -> int | None:
        """See ``FileTree``. One request less for each file that is opened."""
        return None

    def try_read(self, node: int, offset: int, size: int) -> Sequence[Buffer] | None:
        """See ``FileTree``."""
        layer, nid = self._top(node)
        runs = self._inodes[layer].runs(nid, offset, size)
        if isinstance(runs, memoryview):
            return (runs,)
        image = self._images[layer]
        if len(runs) == 1 and runs[0].start is not None:
            return image.try_read(runs[0].start, runs[0].length)
        pieces: list[Buffer] = []
        for run in runs:
            part = _hole(run) if run.start is None else image.try_read(run.start, run.length)
            if part is None:
                return None
            pieces.extend(part)
        return pieces

    async def read(self, node: int, offset: int, size: int) -> Sequence[Buffer]:
        """See ``FileTree``."""
        layer, nid = self._top(node)
        runs = self._inodes[layer].runs(nid, offset, size)
        if isinstance(runs, memoryview):
            return (runs,)
        pieces: list[Buffer] = []
        for run in runs:
            image = self._images[layer]
            pieces.extend(_hole(run) if run.start is None else await image.read(run.start, run.length))
        return pieces

    def forget(self, nodes: Sequence[tuple[int, int]]) -> None:
        """All nodes stay."""

    def describe(self, node: int) -> str:
        """See ``FileTree``. The error of a read says which layer failed."""
        return f"node={node:#x}"

    def total_bytes(self) -> int:
        """See ``FileTree``."""
        return self._total_bytes

    def total_files(self) -> int:
        """See ``FileTree``."""
        return self._total_files

    def _encode_listing(self, node: int) -> Listing:
        stack = self._stack(node)
        layer = stack[0].layer
        if not self._tree.inode(stack).is_directory:
            raise WrongKindError(errno.ENOTDIR, f"node {node:#x} is no directory")
        dots, ends = encode_dots(node, self._parent_node(node))
        if len(stack) == 1:
            base = (layer + 1) << _NID_BITS
            entries = [
                (name, child[0].nid, base | child[0].nid) for name, child in self._tree.children(stack)
            ]
            return self._inodes[layer].listing(dots, ends, entries)
        return _with_dots(dots, ends, replies.encode_listing(self._entries(stack), first_cookie=len(ends)))

    def _entries(self, stack: Stack) -> list[DirectoryEntry]:
        entries = []
        for name, child in self._tree.children(stack):
            node = self._node(child)
            kind = self._inodes[child[0].layer].mode(child[0].nid) >> 12
            entries.append(DirectoryEntry(name, node, self._attr(node), node, kind))
        return entries

    def _attr(self, node: int) -> bytes:
        layer, nid = self._top(node)
        merged = bool(node & _MERGED) or node == abi.ROOT_ID
        return self._inodes[layer].attr(nid, node, merged=merged)

    def _xattrs(self, node: int) -> tuple[tuple[bytes, bytes], ...]:
        return visible_xattrs(self._tree.inode((self._top(node),)))

    def _node(self, stack: Stack) -> int:
        """The node id of a stack; that of a merged directory is remembered."""
        layer, nid = stack[0]
        node = (layer + 1) << _NID_BITS | nid
        if len(stack) > 1:
            node |= _MERGED
            self._stacks[node] = stack
            if len(self._stacks) > STACK_CACHE:
                self._stacks.popitem(last=False)
        return node

    def _top(self, node: int) -> LayerNid:
        if node == abi.ROOT_ID:
            return self._root[0]
        layer = (node >> _NID_BITS & (1 << _LAYER_BITS) - 1) - 1
        if not 0 <= layer < len(self._inodes) or node >> (_NID_BITS + _LAYER_BITS + 1):
            raise NoSuchNodeError(f"there is no node {node:#x}")
        return LayerNid(layer, node & _NID_MASK)

    def _stack(self, node: int) -> Stack:
        if node == abi.ROOT_ID:
            return self._root
        if not node & _MERGED:
            return (self._top(node),)
        stack = self._stacks.get(node)
        if stack is not None:
            self._stacks.move_to_end(node)
            return stack
        return self._find_stack(node)

    def _find_stack(self, node: int) -> Stack:
        """Walk down to a merged directory whose stack was forgotten, or known to another server only."""
        top = self._top(node)
        stack = self._root
        for name in reversed(self._path_up(top)):
            below = self._tree.lookup(stack, name)
            if below is None:
                raise NoSuchNodeError(f"there is no node {node:#x}")
            self._node(below)
            stack = below
        if stack[0] != top:
            raise NoSuchNodeError(f"there is no node {node:#x}")
        return stack

    def _path_up(self, top: LayerNid) -> list[bytes]:
        """Names from a directory up to the root of its layer."""
        reader = self._tree.reader(top.layer)
        names: list[bytes] = []
        nid = top.nid
        while nid != reader.root_nid:
            parent = reader.parent(nid)
            name = next((name for name, child, _type in reader.entries(parent) if child == nid), None)
            if name is None or len(names) >= MAX_DEPTH:
                raise IntegrityError(f"directory inode {top.nid} is not below the root of its layer")
            names.append(name)
            nid = parent
        return names

    def _parent_node(self, node: int) -> int:
        """For the inode number of ``..``; the kernel never asks about it."""
        layer, nid = self._top(node)
        reader = self._tree.reader(layer)
        parent = reader.parent(nid)
        return abi.ROOT_ID if parent == reader.root_nid else (layer + 1) << _NID_BITS | parent


def _hole(run: Run) -> list[Buffer]:
    full, rest = divmod(run.length, len(_ZEROS))
    return [*[_ZEROS] * full, _ZEROS[:rest]]


def _with_dots(dots: bytes, ends: list[int], rest: Listing) -> Listing:
    return Listing(dots + rest.records, [*ends, *(len(dots) + end for end in rest.ends)])
