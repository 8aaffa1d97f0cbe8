"""A layer index of every kind of thing, and ways to damage it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from cafs.core.entry import Extent, Meta
from cafs.errors import IntegrityError
from cafs.index.check import check_index
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from cafs.index.tree import LayerTree
from tests.support.trees import index_bytes

HEADER = 4096
_FILE = Meta(stat.S_IFREG | 0o644, 1, 2, 3)


def torture_tree() -> tuple[LayerTree, bytes]:
    """A small tree with everything in it, and its data region."""
    tree, data = LayerTree(), bytes(range(256)) * 16 * 6
    tree.add_directory(b"", Meta(stat.S_IFDIR | 0o755, xattrs=((b"user.root", b"yes"),)))
    tree.add_file(b"a/plain", _FILE, 5000, [Extent(0, 0, 5000)])
    tree.add_file(b"a/tiny", _FILE, 5, content=b"hello")
    tree.add_file(b"a/empty", _FILE, 0)
    tree.add_file(b"a/sparse", _FILE, 40000, [Extent(8192, 8192, 4096), Extent(16384, 12288, 8000)])
    tree.add_file(b"a/xattr", Meta(stat.S_IFREG, xattrs=((b"security.other", b"c" * 20),)), 0)
    tree.link(b"hard", b"a/plain")
    tree.add_symlink(b"link", Meta(stat.S_IFLNK | 0o777), b"a/plain")
    tree.add_symlink(b"long", Meta(stat.S_IFLNK | 0o777), b"x" * 4090)
    tree.add_node(b"fifo", Meta(stat.S_IFIFO | 0o600))
    tree.add_node(b"device", Meta(stat.S_IFBLK | 0o600, rdev=0x801))
    tree.whiteout(b"gone")
    tree.opaque(b"deep/er/est")
    for number in range(250):
        tree.add_file(b"many/%030d" % number, _FILE, 1, content=b"x")
    return tree, data


def torture_index() -> tuple[bytes, bytes]:
    """(index file, data region) of the torture tree."""
    tree, data = torture_tree()
    return index_bytes(tree, data), data


def opens_and_passes(path: Path) -> bool:
    """Whether an index passes; anything but IntegrityError propagates."""
    try:
        with LayerIndex.open(path) as index:
            check_index(index)
    except IntegrityError:
        return False
    return True


def read_everything(path: Path) -> None:
    """Walk an index with the reader; raises IntegrityError where it meets damage.

    Bounded, as the reader alone promises no tree: it looks at 5,000 inodes at most.
    """
    with LayerIndex.open(path) as index:
        reader = ErofsReader(index.metadata, index.virtual_bytes)
        stack, looked_at = [reader.root_nid], 0
        while stack and looked_at < 5000:
            nid = stack.pop()
            looked_at += 1
            inode = reader.inode(nid)
            if inode.is_directory:
                found = list(reader.entries(nid))
                reader.parent(nid)
                stack += [child for _, child, _ in found]
                for name, _, _ in found[:3]:
                    reader.lookup(nid, name)
            elif stat.S_ISLNK(inode.meta.mode):
                reader.symlink_target(nid)
            elif stat.S_ISREG(inode.meta.mode):
                reader.extents(nid)


def mutations(size: int, start: int = 0) -> st.SearchStrategy[Callable[[bytearray], None]]:
    """Damage somewhere behind ``start``: bits flipped, bytes set, words overwritten by awkward ones."""
    where = st.integers(start, size - 9)
    words = st.sampled_from([0, 1, 0xFF, 0xFFFF, 0xFFFFFFFF, 1 << 31, (1 << 64) - 1, 1 << 63, 4096, 64])
    flip = st.tuples(where, st.integers(0, 7)).map(lambda at: _flipper(*at))
    word = st.tuples(where, st.sampled_from([1, 2, 4, 8]), words | st.integers(0, (1 << 64) - 1))
    return flip | word.map(lambda at: _writer(*at))


def _flipper(at: int, bit: int) -> Callable[[bytearray], None]:
    def flip(content: bytearray) -> None:
        content[at] ^= 1 << bit

    return flip


def _writer(at: int, width: int, value: int) -> Callable[[bytearray], None]:
    def write(content: bytearray) -> None:
        aligned = at // width * width
        content[aligned : aligned + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")

    return write
