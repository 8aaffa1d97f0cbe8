"""Layers seen as one tree: whiteouts, opaque directories, files over directories and back."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.entry import Meta
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import MergedTree, Stack, visible_xattrs
from cafs.index.reader import ErofsReader
from cafs.index.tree import LayerTree
from tests.support.trees import index_bytes

Step = tuple[str, bytes]
"""("dir" | "file" | "whiteout" | "opaque", path)"""


def make_layer(steps: list[Step], layer: int) -> LayerTree:
    tree = LayerTree()
    for kind, path in steps:
        if kind == "dir":
            tree.add_directory(path, Meta(stat.S_IFDIR | 0o755, uid=layer))
        elif kind == "file":
            tree.add_file(path, Meta(stat.S_IFREG | 0o644, uid=layer), 0)
        elif kind == "whiteout":
            tree.whiteout(path)
        else:
            tree.opaque(path)
    return tree


def merge(layers: list[list[Step]], directory: Path) -> MergedTree:
    """Lowest layer first. The indexes stay mapped as long as the tree lives."""
    readers = []
    for number, steps in enumerate(layers):
        path = directory / str(number)
        path.write_bytes(index_bytes(make_layer(steps, number), b""))
        index = LayerIndex.open(path)
        readers.append(ErofsReader(index.metadata, index.virtual_bytes))
    return MergedTree(readers)


def view(tree: MergedTree) -> dict[bytes, tuple[str, int]]:
    """path -> (kind, layer that the attributes come from)."""
    found: dict[bytes, tuple[str, int]] = {}
    stack: list[tuple[bytes, Stack]] = [(b"", tree.root)]
    while stack:
        path, at = stack.pop()
        names = []
        for name, child in tree.children(at):
            assert tree.lookup(at, name) == child
            inode = tree.inode(child)
            full = path + b"/" + name if path else name
            found[full] = ("dir" if inode.is_directory else "file", inode.meta.uid)
            assert all(not key.startswith(b"trusted.overlay.") for key, _ in visible_xattrs(inode))
            names.append(name)
            if inode.is_directory:
                stack.append((full, child))
        assert names == sorted(names)
        assert tree.lookup(at, b"no-such-name") is None
    return found


def test_layers_merge_and_the_top_one_counts(tmp_path: Path) -> None:
    tree = merge(
        [[("dir", b"a"), ("file", b"a/x"), ("file", b"a/y")], [("dir", b"a"), ("file", b"a/y")]], tmp_path
    )
    assert view(tree) == {b"a": ("dir", 1), b"a/x": ("file", 0), b"a/y": ("file", 1)}


def test_a_whiteout_hides_and_a_later_layer_brings_back_only_its_own(tmp_path: Path) -> None:
    layers: list[list[Step]] = [
        [("file", b"a/x"), ("file", b"keep")],
        [("whiteout", b"a")],
        [("dir", b"a"), ("file", b"a/z")],
    ]
    assert view(merge(layers, tmp_path)) == {b"a": ("dir", 2), b"a/z": ("file", 2), b"keep": ("file", 0)}


def test_an_opaque_directory_ends_the_stack(tmp_path: Path) -> None:
    layers: list[list[Step]] = [
        [("file", b"d/e/old")],
        [("opaque", b"d/e"), ("file", b"d/e/new")],
        [("file", b"d/e/top")],
    ]
    assert set(view(merge(layers, tmp_path))) == {b"d", b"d/e", b"d/e/new", b"d/e/top"}


def test_an_opaque_root_hides_every_lower_layer(tmp_path: Path) -> None:
    layers: list[list[Step]] = [[("file", b"old")], [("opaque", b""), ("file", b"new")]]
    assert set(view(merge(layers, tmp_path))) == {b"new"}


def test_a_file_hides_a_directory_and_what_lies_below_it_too(tmp_path: Path) -> None:
    layers: list[list[Step]] = [[("file", b"d/x")], [("file", b"d")], [("dir", b"d"), ("file", b"d/y")]]
    assert view(merge(layers, tmp_path)) == {b"d": ("dir", 2), b"d/y": ("file", 2)}


def test_ten_levels_of_whiteouts(tmp_path: Path) -> None:
    """Each layer hides what the one below brought, deeper and deeper, and brings its own."""
    layers: list[list[Step]] = []
    for level in range(10):
        path = b"/".join(b"d%d" % depth for depth in range(level + 1))
        steps: list[Step] = [("file", path + b"/f%d" % level), ("file", b"top%d" % level)]
        if level:
            steps += [
                ("whiteout", b"top%d" % (level - 1)),
                ("whiteout", path.rpartition(b"/")[0] + b"/f%d" % (level - 1)),
            ]
        layers.append(steps)
    layers.append([("whiteout", b"d0/d1/d2/d3"), ("file", b"d0/d1/d2/back")])
    assert set(view(merge(layers, tmp_path))) == {b"d0", b"d0/d1", b"d0/d1/d2", b"d0/d1/d2/back", b"top9"}


def test_an_image_has_a_layer() -> None:
    with pytest.raises(ValueError, match="one layer"):
        MergedTree([])


def apply(layers: list[list[Step]]) -> set[bytes]:
    """The oracle: unpack layer over layer into a dict, as the OCI layer specification says."""
    files: dict[bytes, str] = {}
    for steps in layers:
        own = set(own_paths(make_layer(steps, 0)))
        for kind, path in steps:
            if kind in ("whiteout", "opaque"):
                hidden = [p for p in files if p.startswith(path + b"/") or (kind == "whiteout" and p == path)]
                for gone in hidden:
                    files.pop(gone)
        for path, kind in own:
            if kind == "file":
                for gone in [p for p in files if p.startswith(path + b"/")]:
                    files.pop(gone)
            elif files.get(path) == "file":
                files.pop(path)
            files[path] = kind
    return set(files)


def own_paths(tree: LayerTree) -> list[tuple[bytes, str]]:
    found, stack = [], [(b"", tree.root)]
    while stack:
        path, inode = stack.pop()
        for name, child in tree.children(inode):
            full = path + b"/" + name if path else name
            mode = tree.inodes.mode[child]
            if stat.S_ISDIR(mode):
                found.append((full, "dir"))
                stack.append((full, child))
            elif not stat.S_ISCHR(mode):
                found.append((full, "file"))
    return found


_deep = st.lists(st.sampled_from([b"a", b"b"]), min_size=1, max_size=3).map(b"/".join)
_kinds = st.sampled_from(["dir", "file", "whiteout", "opaque"])


def consistent(steps: list[Step]) -> list[Step]:
    """Leave out steps that no layer can have: below or at a path that is something else already."""
    kept: list[Step] = []
    for kind, path in steps:
        # A layer names a path once, and nothing lies below its files and whiteouts.
        if any(
            other == path
            or other.startswith(path + b"/")
            or (path.startswith(other + b"/") and what in ("file", "whiteout"))
            for what, other in kept
        ):
            continue
        kept.append((kind, path))
    return kept


@given(st.lists(st.lists(st.tuples(_kinds, _deep), max_size=6).map(consistent), min_size=1, max_size=5))
def test_any_layers_merge_as_they_unpack(layers: list[list[Step]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        assert set(view(merge(layers, Path(directory)))) == apply(layers)
