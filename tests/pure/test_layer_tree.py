"""What a later entry does to an earlier one, and which paths cannot be."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafs.core.entry import Extent, Meta
from cafs.core.erofs import OPAQUE_XATTR, sparse_granularity
from cafs.errors import UsageError
from cafs.index.tree import LayerTree

DIRECTORY = Meta(stat.S_IFDIR | 0o755)
FILE = Meta(stat.S_IFREG | 0o644)
LINK = Meta(stat.S_IFLNK | 0o777)
ACL = bytes.fromhex("0200000001000700ffffffff04000500ffffffff20000500ffffffff")


def paths(tree: LayerTree) -> set[bytes]:
    found, stack = set(), [(b"", tree.root)]
    while stack:
        path, inode = stack.pop()
        for name, child in tree.children(inode):
            full = path + b"/" + name if path else name
            found.add(full)
            if stat.S_ISDIR(tree.inodes.mode[child]):
                stack.append((full, child))
    return found


class Model:
    """The same rules on a dict of paths, as plainly as can be."""

    def __init__(self) -> None:
        self.files: dict[bytes, object] = {}

    def add(self, path: bytes, what: object) -> bool:
        parents = [path[:at] for at, letter in enumerate(path) if letter == ord("/")]
        if any(self.files.get(parent, "dir") != "dir" for parent in parents):
            return False
        for parent in parents:
            self.files[parent] = "dir"
        if not (what == "dir" and self.files.get(path) == "dir"):
            self.files = {p: w for p, w in self.files.items() if p != path and not p.startswith(path + b"/")}
        self.files[path] = what
        return True


_paths = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=4).map(b"/".join)


@given(st.lists(st.tuples(_paths, st.sampled_from(["dir", "file", "link"]), _paths), max_size=40))
def test_the_last_entry_wins_as_when_unpacking(steps: list[tuple[bytes, str, bytes]]) -> None:
    tree, model = LayerTree(), Model()
    for number, (path, kind, target) in enumerate(steps):
        try:
            if kind == "dir":
                tree.add_directory(path, DIRECTORY)
                done = True
            elif kind == "file":
                tree.add_file(path, Meta(stat.S_IFREG, mtime_ns=number), 1, content=b"x")
                done = True
            elif path == target or model.files.get(target, "dir") == "dir":
                continue
            else:
                number = model.files[target]  # noqa: PLW2901 -- a link is the file it names
                done = tree.link(path, target)
        except UsageError:
            done = False
        assert model.add(path, "dir" if kind == "dir" else number) == done
    assert paths(tree) == set(model.files)
    for path, what in model.files.items():
        node = tree.lookup(path)
        assert node is not None
        assert node.meta.mtime_ns == what if isinstance(what, int) else stat.S_ISDIR(node.meta.mode)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/etc",
        b"a//b",
        b"a/",
        b"./a",
        b"../a",
        b"a/../b",
        b"a/.",
        b"a\0b",
        b"n" * 256,
        b"d/" * 2048 + b"f",
    ],
)
def test_a_path_that_cannot_be_is_refused(path: bytes) -> None:
    with pytest.raises(UsageError):
        LayerTree().add_file(path, FILE, 0)


def test_the_root_is_a_directory_and_nothing_else() -> None:
    tree = LayerTree()
    tree.add_file(b"f", FILE, 0)
    for add in (
        lambda: tree.add_file(b"", FILE, 0),
        lambda: tree.add_symlink(b"", LINK, b"/"),
        lambda: tree.add_node(b"", Meta(stat.S_IFIFO)),
        lambda: tree.link(b"", b"f"),
    ):
        with pytest.raises(UsageError, match="the root must be a directory"):
            add()


@pytest.mark.parametrize("path", [b"f/x", b"l/x", b"f/x/y"])
def test_nothing_lies_below_a_file_or_symlink(path: bytes) -> None:
    tree = LayerTree()
    tree.add_file(b"f", FILE, 0)
    tree.add_symlink(b"l", LINK, b"/")
    with pytest.raises(UsageError, match=path.decode()):
        tree.add_directory(path, DIRECTORY)


@pytest.mark.parametrize(
    "meta",
    [
        Meta(stat.S_IFREG | 0o644, uid=-1),
        Meta(stat.S_IFREG | 0o644, gid=1 << 32),
        Meta(stat.S_IFREG | 0o644, mtime_ns=10**9 << 63),
        Meta(stat.S_IFREG, xattrs=((b"odd.name", b""),)),
        Meta(stat.S_IFREG, xattrs=((b"user.", b""),)),
        Meta(stat.S_IFREG, xattrs=((b"user.x", b"v" * 65536),)),
        Meta(stat.S_IFREG, xattrs=((b"system.posix_acl_access", b""),)),
        Meta(stat.S_IFREG, xattrs=((b"system.posix_acl_access", b"user::rw-"),)),
        Meta(stat.S_IFREG, xattrs=((b"system.posix_acl_access", ACL[:-1]),)),
        Meta(stat.S_IFREG, xattrs=((b"system.posix_acl_default", ACL[:4] + b"\x03" + ACL[5:]),)),
        Meta(stat.S_IFREG, xattrs=tuple((b"user.%d" % n, b"v" * 60000) for n in range(5))),
        Meta(0o644),
    ],
)
def test_metadata_that_cannot_be_stored_is_refused(meta: Meta) -> None:
    with pytest.raises(UsageError):
        LayerTree().add_file(b"f", meta, 0)


@pytest.mark.parametrize("value", [ACL, ACL[:4]])
def test_what_the_kernel_reads_as_an_acl_is_kept(value: bytes) -> None:
    tree = LayerTree()
    tree.add_file(b"f", Meta(stat.S_IFREG, xattrs=((b"system.posix_acl_access", value),)), 0)
    found = tree.lookup(b"f")
    assert found is not None
    assert dict(found.meta.xattrs) == {b"system.posix_acl_access": value}


def test_a_device_number_beyond_linux_is_refused() -> None:
    with pytest.raises(UsageError, match="out of range"):
        LayerTree().add_node(b"d", Meta(stat.S_IFCHR, rdev=os.makedev(1 << 12, 0)))


def test_missing_parents_are_implied_until_an_entry_describes_them() -> None:
    tree = LayerTree()
    tree.add_file(b"a/b/f", FILE, 0)
    assert list(tree.implied_directories()) == [b"", b"a", b"a/b"]
    tree.add_directory(b"a", DIRECTORY)
    tree.add_directory(b"", DIRECTORY)
    assert list(tree.implied_directories()) == [b"a/b"]
    tree.add_file(b"a", FILE, 0)
    assert list(tree.implied_directories()) == []


def is_opaque(tree: LayerTree, path: bytes) -> bool:
    node = tree.lookup(path)
    return node is not None and OPAQUE_XATTR in node.meta.xattrs


def test_a_whiteout_hides_what_lies_below_but_not_what_the_layer_has() -> None:
    tree = LayerTree()
    tree.whiteout(b"gone")
    node = tree.lookup(b"gone")
    assert node is not None
    assert node.is_whiteout
    tree.add_file(b"kept", FILE, 0)
    tree.whiteout(b"kept")
    kept = tree.lookup(b"kept")
    assert kept is not None
    assert not kept.is_whiteout
    assert not tree.link(b"x", b"gone")


def test_a_directory_that_comes_with_or_after_its_own_whiteout_is_opaque() -> None:
    tree = LayerTree()
    tree.whiteout(b"after")
    tree.add_directory(b"after", DIRECTORY)
    tree.add_directory(b"before", DIRECTORY)
    tree.whiteout(b"before")
    tree.whiteout(b"implied")
    tree.add_file(b"implied/f", FILE, 0)
    assert [is_opaque(tree, path) for path in (b"after", b"before", b"implied")] == [True] * 3


def test_opaque_stays_when_the_directory_is_described_later() -> None:
    tree = LayerTree()
    tree.opaque(b"d")
    tree.add_directory(b"d", Meta(stat.S_IFDIR, xattrs=((b"user.a", b"1"), (b"user.z", b""))))
    assert is_opaque(tree, b"d")
    tree.add_file(b"f", FILE, 0)
    with pytest.raises(UsageError, match="file"):
        tree.opaque(b"f")


def test_a_hard_link_needs_a_file_of_this_layer() -> None:
    tree = LayerTree()
    assert not tree.link(b"a", b"missing")
    assert paths(tree) == set()
    tree.add_directory(b"d", DIRECTORY)
    with pytest.raises(UsageError, match="directory"):
        tree.link(b"a", b"d")


@pytest.mark.parametrize(
    "extents",
    [
        [Extent(100, 0, 10)],
        [Extent(0, 100, 10)],
        [Extent(0, 0, 8192), Extent(4096, 8192, 100)],
        [Extent(0, 0, 100_000)],
    ],
)
def test_extents_off_the_blocks_or_the_file_are_a_mistake_of_the_caller(extents: list[Extent]) -> None:
    with pytest.raises(ValueError, match=r"block|end"):
        LayerTree().add_file(b"f", FILE, 50_000, extents)


def test_a_large_sparse_file_has_coarse_runs() -> None:
    """Runs of blocks would not say what lies between a run's end and the next coarse chunk."""
    size = 1 << 40
    with pytest.raises(ValueError, match="block"):
        LayerTree().add_file(b"f", FILE, size, [Extent(0, 0, 4096), Extent(8192, 4096, 4096)])
    granularity = sparse_granularity(size)
    LayerTree().add_file(b"f", FILE, size, [Extent(granularity, 0, 4096)])


def test_a_directory_of_very_many_names_is_sorted_in_runs() -> None:
    """Three runs are merged; names of which one begins another, and one that another file replaced."""
    tree, count = LayerTree(), 70_000
    names = [b"n%d" % (number * 7919 % count) for number in range(count)]
    for name in [*names, b"n7"]:
        tree.add_file(name, FILE, 0)
    tree.sort_names(tree.root)
    found = list(tree.sorted_children(tree.root))
    assert [name for name, _ in found] == sorted(names)
    assert found == tree.children(tree.root)
    assert dict(found)[b"n7"] == count + 1


def test_every_file_may_have_xattrs_of_its_own() -> None:
    tree = LayerTree()
    metas = {b"%d" % n: Meta(FILE.mode, xattrs=((b"user.n", b"%d" % (n % 2500)),)) for n in range(4000)}
    for path, meta in metas.items():
        tree.add_file(path, meta, 0)
    for path, meta in metas.items():
        node = tree.lookup(path)
        assert node is not None
        assert node.meta == meta


@given(st.integers(1, 1 << 62))
def test_a_sparse_file_of_any_size_needs_few_pieces(size: int) -> None:
    granularity = sparse_granularity(size)
    assert granularity & (granularity - 1) == 0
    assert granularity == 4096 or -(-size // granularity) <= 1 << 20
