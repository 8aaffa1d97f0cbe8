"""Any tree in, the same tree out: through the writer, the check and the reader."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from cafs.core.entry import Meta
from cafs.index.check import check_index
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from cafs.index.tree import LayerTree
from tests.support.trees import Node, build_tree, expected, index_bytes, read_back, tree_specs, write_tree


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(tree_specs())
def test_any_tree_comes_back_as_it_was(spec: Node) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "index"
        data = write_tree(spec, path)
        with LayerIndex.open(path) as index:
            check_index(index)
            assert read_back(index, data) == expected(spec)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(tree_specs())
def test_the_order_of_entries_does_not_show(spec: Node) -> None:
    """Deterministic: what counts is the tree, not in which order its entries came."""
    tree, data = build_tree(spec)
    again = LayerTree()
    spec_paths = {path: tree.lookup(path) for path in reversed(list(expected(spec)))}
    first_name: dict[int, bytes] = {}
    for path, node in spec_paths.items():
        assert node is not None
        if node.inode in first_name:
            assert again.link(path, first_name[node.inode])
        elif stat.S_ISDIR(node.meta.mode):
            again.add_directory(path, node.meta)
        elif stat.S_ISREG(node.meta.mode):
            again.add_file(path, node.meta, node.size, node.extents, node.content)
        elif stat.S_ISLNK(node.meta.mode):
            again.add_symlink(path, node.meta, node.content or b"")
        else:
            again.add_node(path, node.meta)
        if not stat.S_ISDIR(node.meta.mode):
            first_name.setdefault(node.inode, path)
    assert index_bytes(again, data) == index_bytes(tree, data)


def test_lookup_finds_every_name_of_a_directory_of_many_blocks_and_no_other(tmp_path: Path) -> None:
    tree = LayerTree()
    present = [b"name-%06d" % number for number in range(0, 5000, 2)]
    for name in present:
        tree.add_node(name, Meta(stat.S_IFIFO | 0o600))
    path = tmp_path / "index"
    path.write_bytes(index_bytes(tree, b""))
    with LayerIndex.open(path) as index:
        reader = ErofsReader(index.metadata, index.virtual_bytes)
        by_name = {name: nid for name, nid, _ in reader.entries(reader.root_nid)}
        assert sorted(by_name) == present
        for number in range(5000):
            name = b"name-%06d" % number
            assert reader.lookup(reader.root_nid, name) == by_name.get(name)
        for name in (b"", b"a", b"name-", b"name-0000000", b"z", b"\xff" * 255):
            assert reader.lookup(reader.root_nid, name) is None
        assert reader.parent(reader.root_nid) == reader.root_nid


def test_small_files_stay_within_the_size_budget() -> None:
    """At most 160 bytes a file, with content that is inline not counted as data."""
    tree, count = LayerTree(), 10_000
    for number in range(count):
        path = b"srv/data%03d/record_with_a_longer_name_%05d.json" % (number // 50, number)
        tree.add_file(path, Meta(stat.S_IFREG | 0o644, mtime_ns=number), 32, content=b"x" * 32)
    assert len(index_bytes(tree, b"")) <= 160 * count
