"""Random filesystem trees: as a specification, as a layer index, and read back from anywhere.

A test draws a ``Node`` (a directory) with ``tree_specs()``, makes an index of it with ``write_tree``,
and compares ``expected(spec)`` with what ``read_back`` or ``read_mounted`` found.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from cafs.core.chunk import ChunkRef, Codec, chunk_digest
from cafs.core.digest import Digest
from cafs.core.entry import Extent, Meta
from cafs.core.source import BlobRef
from cafs.index.header import ChunkingOptions
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from cafs.index.tree import INLINE_MAX_BYTES, LayerTree
from cafs.index.writer import write_index

OPTIONS = ChunkingOptions(16 << 10, 64 << 10, 256 << 10, 3)
BLOCK = 4096
_ACL = bytes.fromhex("0200000001000700ffffffff04000500ffffffff10000700ffffffff20000500ffffffff")
"""A valid POSIX ACL; the kernel parses what it is given."""


@dataclass
class Node:
    """One inode of a specification; ``children`` of directories only."""

    meta: Meta
    content: bytes = b""
    """Of files; link targets."""
    holes: frozenset[int] = frozenset()
    """Blocks of a file that are to be holes; they are zeros in ``content``."""
    children: dict[bytes, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What somebody saw at a path."""

    meta: Meta
    nlink: int
    content: bytes
    identity: int
    """Equal for names of one inode."""


def _as_name(raw: bytes) -> bytes:
    name = raw.replace(b"/", b"_").replace(b"\0", b"0")
    return name if name not in {b".", b".."} else b"dots"


_AWKWARD = [b"+", b"-a", b",", b"...", b".a", b"a" * 8, b"a" * 9, b"a" * 16, b"\xff\xfe", b"\xc3\xbc"]
names = (
    st.binary(min_size=1, max_size=12) | st.binary(min_size=200, max_size=255) | st.sampled_from(_AWKWARD)
).map(_as_name)

_ids = st.integers(0, 0xFFFFFFFE)
_times = st.integers(-(1 << 62), 1 << 62) | st.sampled_from([0, -1, 1, (1 << 63), -5_000_000_001])
_permissions = st.integers(0, 0o7777)


def _xattrs(kind: int) -> st.SearchStrategy[tuple[tuple[bytes, bytes], ...]]:
    suffixes = st.text("abcé.", min_size=1, max_size=60).map(str.encode)
    values = st.binary(max_size=40) | st.integers(0, 3000).map(lambda n: b"v" * n)
    prefixes = [b"trusted.", b"security."]
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        prefixes.append(b"user.")
    plain = st.dictionaries(st.tuples(st.sampled_from(prefixes), suffixes).map(b"".join), values, max_size=4)
    if kind == stat.S_IFDIR:
        acls = st.dictionaries(
            st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"]), st.just(_ACL)
        )
        plain = st.builds(lambda a, b: a | b, plain, acls)
    return plain.map(lambda found: tuple(sorted(found.items())))


@st.composite
def _metas(draw: st.DrawFn, kind: int) -> Meta:
    xattrs = draw(_xattrs(kind)) if draw(st.integers(0, 3)) == 0 else ()
    rdev = 0
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        rdev = os.makedev(draw(st.integers(1, 4095)), draw(st.integers(0, (1 << 20) - 1)))
    return Meta(kind | draw(_permissions), draw(_ids), draw(_ids), draw(_times), rdev, xattrs)


@st.composite
def _files(draw: st.DrawFn) -> Node:
    size = draw(
        st.integers(0, INLINE_MAX_BYTES + 2)
        | st.integers(0, 5 * BLOCK)
        | st.sampled_from([BLOCK, BLOCK - 1, BLOCK + 1, 2 * BLOCK])
    )
    seed = draw(st.integers(0, 3))
    content = bytearray(hashlib.shake_128(bytes([seed])).digest(size))
    holes: frozenset[int] = frozenset()
    if size > BLOCK and draw(st.booleans()):
        blocks = -(-size // BLOCK)
        holes = draw(st.frozensets(st.integers(0, blocks - 1)))
        for block in holes:
            end = min(size, (block + 1) * BLOCK)
            content[block * BLOCK : end] = bytes(end - block * BLOCK)
    return Node(draw(_metas(stat.S_IFREG)), bytes(content), holes)


@st.composite
def _symlinks(draw: st.DrawFn) -> Node:
    target = draw(st.binary(min_size=1, max_size=80) | st.integers(1, 4095).map(lambda n: b"t" * n))
    return Node(draw(_metas(stat.S_IFLNK)), target.replace(b"\0", b"0"))


def _nodes() -> st.SearchStrategy[Node]:
    kinds = st.sampled_from([stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
    return _files() | _symlinks() | kinds.flatmap(_metas).map(Node)


def _directories(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.builds(
        lambda meta, found: Node(meta, children=found),
        _metas(stat.S_IFDIR),
        st.dictionaries(names, children, max_size=8),
    )


def tree_specs() -> st.SearchStrategy[Node]:
    """Directories of anything; hard links are one ``Node`` under several names."""
    return _directories(st.recursive(_nodes(), _directories, max_leaves=30)).flatmap(_with_links)


@st.composite
def _with_links(draw: st.DrawFn, root: Node) -> Node:
    everything = list(walk_spec(root))
    directories = [node for _, node in everything if stat.S_ISDIR(node.meta.mode)]
    files = [node for _, node in everything if not stat.S_ISDIR(node.meta.mode)]
    if draw(st.integers(0, 3)) == 0:
        # Enough names for a directory of several blocks.
        large, width = draw(st.sampled_from(directories)), draw(st.integers(1, 60))
        for number in range(draw(st.integers(1, 600))):
            large.children.setdefault(b"entry-%0*d" % (width, number), Node(Meta(stat.S_IFIFO | 0o600)))
    if files:
        for name in draw(st.lists(names, max_size=4)):
            target = draw(st.sampled_from(files))
            draw(st.sampled_from(directories)).children.setdefault(name, target)
    return root


def walk_spec(root: Node, path: bytes = b"") -> Iterator[tuple[bytes, Node]]:
    """(path, node) of everything, parents first."""
    yield path, root
    for name, child in root.children.items():
        yield from walk_spec(child, path + b"/" + name if path else name)


def build_tree(root: Node) -> tuple[LayerTree, bytes]:
    """The tree and the bytes of its data region."""
    tree, data = LayerTree(), bytearray()
    first_names: dict[int, bytes] = {}
    for path, node in walk_spec(root):
        kind = stat.S_IFMT(node.meta.mode)
        if id(node) in first_names:
            assert tree.link(path, first_names[id(node)])
            continue
        if kind == stat.S_IFDIR:
            tree.add_directory(path, node.meta)
            continue
        first_names[id(node)] = path
        if kind == stat.S_IFREG:
            _add_file(tree, path, node, data)
        elif kind == stat.S_IFLNK:
            tree.add_symlink(path, node.meta, node.content)
        else:
            tree.add_node(path, node.meta)
    return tree, bytes(data)


def _add_file(tree: LayerTree, path: bytes, node: Node, data: bytearray) -> None:
    size = len(node.content)
    if size <= INLINE_MAX_BYTES:
        tree.add_file(path, node.meta, size, content=node.content)
        return
    extents = []
    for block in range(-(-size // BLOCK)):
        if block not in node.holes:
            piece = node.content[block * BLOCK : (block + 1) * BLOCK]
            extents.append(Extent(block * BLOCK, len(data), len(piece)))
            data += piece.ljust(BLOCK, b"\0")
    tree.add_file(path, node.meta, size, extents)


def index_bytes(tree: LayerTree, data: bytes, chunk_bytes: int = 5000, diff_id: bytes = bytes(32)) -> bytes:
    """An index whose chunks are raw, of ``chunk_bytes`` each, in one blob that is the data itself."""
    rows = []
    for start in range(0, len(data), chunk_bytes):
        plain = data[start : start + chunk_bytes]
        ref = ChunkRef(chunk_digest(plain), len(plain), 0, start, len(plain), Codec.RAW)
        rows.append((start + len(plain), ref))
    blobs = [BlobRef(Digest("sha256:" + hashlib.sha256(data).hexdigest()), len(data))] if data else []
    file = io.BytesIO()
    write_index(file, tree, rows, blobs, data_bytes=len(data), diff_id=diff_id, options=OPTIONS)
    return file.getvalue()


def write_tree(root: Node, path: Path) -> bytes:
    """Write the index of ``root`` to ``path``; the data region."""
    tree, data = build_tree(root)
    path.write_bytes(index_bytes(tree, data))
    return data


def expected(root: Node) -> dict[bytes, Seen]:
    """What everybody must see of ``root``."""
    found = list(walk_spec(root))
    links: dict[int, int] = {}
    for _, node in found:
        links[id(node)] = links.get(id(node), 0) + 1
    seen = {}
    for path, node in found:
        nlink = links[id(node)]
        if stat.S_ISDIR(node.meta.mode):
            nlink = 2 + sum(stat.S_ISDIR(child.meta.mode) for child in node.children.values())
        seen[path] = Seen(node.meta, nlink, node.content, id(node))
    return _with_plain_identities(seen)


def read_back(index: LayerIndex, data: bytes) -> dict[bytes, Seen]:
    """Everything as ``ErofsReader`` shows it."""
    reader = ErofsReader(index.metadata, index.virtual_bytes)
    seen: dict[bytes, Seen] = {}
    stack = [(b"", reader.root_nid)]
    while stack:
        path, nid = stack.pop()
        inode = reader.inode(nid)
        content = b""
        if inode.is_directory:
            for name, child, _ in reader.entries(nid):
                assert reader.lookup(nid, name) == child
                stack.append((path + b"/" + name if path else name, child))
        elif stat.S_ISLNK(inode.meta.mode):
            content = reader.symlink_target(nid)
        elif stat.S_ISREG(inode.meta.mode):
            content = _content(reader, nid, inode.size, data, len(index.metadata))
        xattrs = tuple(sorted(inode.meta.xattrs))
        meta = Meta(
            inode.meta.mode, inode.meta.uid, inode.meta.gid, inode.meta.mtime_ns, inode.meta.rdev, xattrs
        )
        seen[path] = Seen(meta, inode.nlink, content, nid)
    return _with_plain_identities(seen)


def _content(reader: ErofsReader, nid: int, size: int, data: bytes, data_start: int) -> bytes:
    extents = reader.extents(nid)
    if isinstance(extents, bytes):
        return extents
    content = bytearray(size)
    for file_offset, virtual_offset, length in extents:
        start = virtual_offset - data_start
        content[file_offset : file_offset + length] = data[start : start + length]
    return bytes(content)


def read_mounted(root: bytes) -> dict[bytes, Seen]:
    """Everything as the kernel shows it below a mount point."""
    seen: dict[bytes, Seen] = {}
    stack = [b""]
    while stack:
        path = stack.pop()
        full = root + b"/" + path if path else root
        found = os.lstat(full)
        content = b""
        if stat.S_ISDIR(found.st_mode):
            with os.scandir(full) as entries:
                stack += [path + b"/" + entry.name if path else entry.name for entry in entries]
        elif stat.S_ISLNK(found.st_mode):
            content = os.readlink(full)  # noqa: PTH115  a Path would lose slashes of the target
        elif stat.S_ISREG(found.st_mode):
            content = Path(os.fsdecode(full)).read_bytes()
        xattrs = tuple(
            sorted(
                (os.fsencode(name), os.getxattr(full, name, follow_symlinks=False))
                for name in os.listxattr(full, follow_symlinks=False)
            )
        )
        rdev = found.st_rdev if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode) else 0
        meta = Meta(found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, rdev, xattrs)
        seen[path] = Seen(meta, found.st_nlink, content, found.st_ino)
    return _with_plain_identities(seen)


def _with_plain_identities(seen: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """Identities as numbers in order of path, so that those of two readers can be compared."""
    plain: dict[int, int] = {}
    return {
        path: Seen(one.meta, one.nlink, one.content, plain.setdefault(one.identity, len(plain)))
        for path, one in sorted(seen.items())
    }
