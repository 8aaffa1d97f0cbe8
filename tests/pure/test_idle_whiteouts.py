"""Whiteouts that hide nothing, because an opaque directory above them hides everything."""

from __future__ import annotations

import stat

from cafs.core.entry import Meta
from cafs.index.tree import LayerTree

DIRECTORY = Meta(stat.S_IFDIR | 0o755)


def names(tree: LayerTree, path: bytes) -> list[bytes]:
    node = tree.lookup(path)
    assert node is not None
    return [name for name, _inode in tree.children(node.inode)]


def test_below_an_opaque_directory_whiteouts_go() -> None:
    tree = LayerTree()
    for path in (b"a", b"a/b", b"c"):
        tree.add_directory(path, DIRECTORY)
    for path in (b"a/gone", b"a/b/gone", b"c/gone", b"gone"):
        tree.whiteout(path)
    tree.add_node(b"a/null", Meta(stat.S_IFCHR | 0o666, rdev=259))
    tree.opaque(b"a")
    tree.drop_idle_whiteouts()
    assert names(tree, b"a") == [b"b", b"null"]
    assert names(tree, b"a/b") == []
    assert names(tree, b"c") == [b"gone"]
    assert names(tree, b"") == [b"a", b"c", b"gone"]
