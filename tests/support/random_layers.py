"""Random layers with everything a tree can hold, and the tree that they must make together.

The expected tree is kept as a plain dict of paths, changed as an unpacking tool would change a
directory: nothing of ``cafs.index.merge`` is used for it.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from cafs.core.entry import Meta
from tests.support.layered import Layer
from tests.support.observe import Seen

NAMES = [b"a", b"b", b"c", b"d", b"e", b"long " * 40, b"\xff\xfe", b"new\nline", b"...", b"z" * 255]
TYPES = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]
WEIGHTS = [8, 14, 2, 1, 1, 1, 1]


@dataclass
class Node:
    """One expected inode."""

    meta: Meta
    content: bytes = b""
    links: int = 1


class RandomImage:
    """Layers written to a directory, lowest first, and ``expected``."""

    def __init__(self, seed: int, layers: int, entries: int) -> None:
        self._rng = random.Random(seed)
        self._tree: dict[bytes, Node] = {b"": Node(Meta(stat.S_IFDIR | 0o755))}
        self._layers = [self._make_layer(entries) for _ in range(layers)]

    def write(self, directory: Path) -> None:
        """As ``tests.support.layered`` does."""
        for number, layer in enumerate(self._layers):
            layer.write(directory, number)

    @property
    def layers(self) -> int:
        return len(self._layers)

    @property
    def layer_list(self) -> list[Layer]:
        return self._layers

    def expected(self) -> dict[bytes, Seen]:
        """What ``observe`` must find."""
        first: dict[int, bytes] = {}
        seen = {}
        for path in sorted(self._tree, key=lambda path: path.split(b"/")):
            first.setdefault(id(self._tree[path]), path)
        for path, node in self._tree.items():
            mode = node.meta.mode
            is_directory = stat.S_ISDIR(mode)
            if stat.S_ISREG(mode):
                content = hashlib.sha256(node.content).hexdigest()
            else:
                content = os.fsdecode(node.content)
            seen[path] = Seen(
                mode=mode,
                uid=node.meta.uid,
                gid=node.meta.gid,
                mtime_ns=node.meta.mtime_ns,
                size=None if is_directory else len(node.content),
                nlink=None if is_directory else node.links,
                rdev=node.meta.rdev,
                content=content,
                xattrs=tuple((name.decode(), value) for name, value in node.meta.xattrs),
                linked_as=first[id(node)],
            )
        return seen

    def contents(self) -> dict[bytes, bytes]:
        """The bytes of every regular file."""
        return {path: node.content for path, node in self._tree.items() if stat.S_ISREG(node.meta.mode)}

    def _make_layer(self, entries: int) -> Layer:
        layer = Layer()
        mine: dict[bytes, Node] = {}
        root = Meta(stat.S_IFDIR | 0o755, mtime_ns=self._rng.randrange(10**18))
        layer.tree.add_directory(b"", root)
        self._tree[b""] = mine[b""] = Node(root)
        for _ in range(entries):
            self._add_entry(layer, mine)
        for _ in range(entries // 8):
            self._hide_something(layer, mine)
        return layer

    def _add_entry(self, layer: Layer, mine: dict[bytes, Node]) -> None:
        parents = [
            path for path, node in mine.items() if stat.S_ISDIR(node.meta.mode) and path.count(b"/") < 5
        ]
        parent = self._rng.choice(parents)
        path = parent + b"/" + self._rng.choice(NAMES) if parent else self._rng.choice(NAMES)
        if path in mine:
            return
        files = [name for name, node in mine.items() if stat.S_ISREG(node.meta.mode)]
        if files and self._rng.random() < 0.15:
            target = self._rng.choice(files)
            assert layer.tree.link(path, target)
            node = mine[target]
            node.links += 1
        else:
            node = self._new_node(layer, path)
        mine[path] = node
        before = self._tree.get(path)
        if before is not None and not (stat.S_ISDIR(before.meta.mode) and stat.S_ISDIR(node.meta.mode)):
            self._forget(path)
        self._tree[path] = node

    def _new_node(self, layer: Layer, path: bytes) -> Node:
        kind = self._rng.choices(TYPES, WEIGHTS)[0]
        meta = self._meta(kind)
        if kind == stat.S_IFDIR:
            layer.tree.add_directory(path, meta)
        elif kind == stat.S_IFLNK:
            target = self._rng.choice([b"x", b"../" * 30, b"t" * 4000, b"/etc/\xff"])
            layer.tree.add_symlink(path, meta, target)
            return Node(meta, target)
        elif kind == stat.S_IFREG:
            return Node(meta, self._file(layer, path, meta))
        else:
            layer.tree.add_node(path, meta)
        return Node(meta)

    def _file(self, layer: Layer, path: bytes, meta: Meta) -> bytes:
        if self._rng.random() < 0.2:
            size = self._rng.randrange(100_000, 3_000_000)
            content = bytearray(size)
            pieces = []
            for start in range(0, size - 8192, 40_960 * self._rng.randrange(1, 4)):
                pieces.append((start, self._rng.randbytes(4096 * self._rng.randrange(1, 3))))
                content[start : start + len(pieces[-1][1])] = pieces[-1][1]
            layer.sparse(path, meta, size, pieces)
            return bytes(content)
        content = self._rng.randbytes(self._rng.choice([0, 1, 40, 64, 65, 4095, 4096, 4097, 70_000, 400_000]))
        layer.file(path, meta, content)
        return content

    def _hide_something(self, layer: Layer, mine: dict[bytes, Node]) -> None:
        """A whiteout, or an opaque directory."""
        hidden = [path for path in self._tree if path and path not in mine and self._parent(path) in mine]
        if self._rng.random() < 0.85:
            if not hidden:
                return
            path = self._rng.choice(hidden)
            layer.tree.whiteout(path)
            self._forget(path)
            return
        directories = [path for path, node in mine.items() if path and stat.S_ISDIR(node.meta.mode)]
        if directories:
            path = self._rng.choice(directories)
            layer.tree.opaque(path)
            for below in [name for name in self._tree if name.startswith(path + b"/") and name not in mine]:
                del self._tree[below]

    def _forget(self, path: bytes) -> None:
        for below in [name for name in self._tree if name == path or name.startswith(path + b"/")]:
            del self._tree[below]

    def _parent(self, path: bytes) -> bytes:
        return path.rpartition(b"/")[0]

    def _meta(self, kind: int) -> Meta:
        rng = self._rng
        meta = Meta(
            kind | (0o777 if kind == stat.S_IFLNK else rng.choice([0, 0o644, 0o4755, 0o1777, 0o2070])),
            rng.choice([0, 1000, 65534, 2**32 - 2]),
            rng.choice([0, 5, 70_000]),
            rng.randrange(-(10**17), 4 * 10**18),
        )
        if kind in {stat.S_IFCHR, stat.S_IFBLK}:
            return replace(meta, rdev=os.makedev(rng.choice([1, 259, 4095]), rng.choice([3, 300, 1048575])))
        if kind in {stat.S_IFREG, stat.S_IFDIR} and rng.random() < 0.3:
            names = [b"security.foo", b"trusted.bar", b"user.x", b"user." + b"y" * 200]
            return replace(meta, xattrs=tuple((name, rng.randbytes(rng.randrange(90))) for name in names))
        return meta
