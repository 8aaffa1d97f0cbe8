"""``LayerTree``: the filesystem tree of one layer while it is being read.

The converter feeds it entries in the order of the tar; the writer turns it into an EROFS metadata
region. It decides what a later entry does to an earlier one (the last wins, as when unpacking) and
which paths cannot be. It knows nothing of tar, chunks or files. Rows of columns, not objects, which lie
in a ``Scratch``: memory does not grow with their number (``cafs.index.columns``).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cafs.core.entry import S_IFMT_TYPES, Extent, Meta
from cafs.core.erofs import OPAQUE_XATTR, SYMLINK_MAX_BYTES
from cafs.errors import UsageError
from cafs.index.columns import NO_INODE, Content, InodeColumns, NameTable
from cafs.index.scratch import Scratch
from cafs.index.tree_rules import check_meta, check_name, merge_extents, show_path

INLINE_MAX_BYTES = 32
"""Files up to this size are kept in the index: an inode of 64 bytes, a slot of 32 for the content, and
name and entry of up to 50 stay within 160 bytes a file."""
WHITEOUT = Meta(mode=stat.S_IFCHR)
"""A char device 0:0, as overlayfs wants it."""

_IMPLIED, _OPAQUE = 1, 2
_IMPLIED_META = Meta(mode=stat.S_IFDIR | 0o755)
_ROOT = 0
_CACHED_DIRECTORIES = 4096


@dataclass(frozen=True, slots=True)
class TreeNode:
    """What ``LayerTree.lookup`` finds."""

    inode: int
    meta: Meta
    size: int
    content: bytes | None
    """Inline content or symlink target."""
    extents: tuple[Extent, ...]

    @property
    def is_whiteout(self) -> bool:
        """Whether the name hides one of a lower layer."""
        return stat.S_ISCHR(self.meta.mode) and self.meta.rdev == 0


class LayerTree:
    """Paths are bytes, relative, without ``./``; ``b""`` is the root.

    Every method that takes a path raises UsageError naming it when it cannot be: an empty, ``.`` or
    ``..`` component, a NUL, a component over 255 or a path over 4095 bytes, a component below a file or
    symlink of this layer. Missing parents are made as *implied* directories.
    """

    def __init__(self, scratch: Scratch | None = None) -> None:
        """``scratch`` is where it grows; without one it stays in memory."""
        self.scratch = scratch or Scratch()
        self.inodes = InodeColumns(self.scratch)
        self._names = NameTable(self.scratch)
        self._directories: dict[bytes, int] = {}
        self._has_opaque = False
        self._has_whiteout = False
        self.inodes.append(_IMPLIED_META, 0, Content.NONE, 0, _IMPLIED)

    @property
    def root(self) -> int:
        """The root directory's inode."""
        return _ROOT

    def add_directory(self, path: bytes, meta: Meta) -> None:
        """Add a directory, or update one that is there and keep its children."""
        check_meta(path, meta, {stat.S_IFDIR})
        if not path:
            self._update_directory(_ROOT, meta)
            return
        parent, name = self._parent_of(path)
        current = self._live(parent, name)
        if current is not None and stat.S_ISDIR(self.inodes.mode[current]):
            self._update_directory(current, meta)
            return
        inode = self.inodes.append(meta, 0, Content.NONE, 0)
        if current is not None:
            # What was here (a whiteout, or a file that replaced the lower layer's) hid the lower
            # layer's directory; its entries must not come back through the new one.
            self._make_opaque(inode)
        self._bind(parent, name, inode)

    def add_file(
        self,
        path: bytes,
        meta: Meta,
        size: int,
        extents: Sequence[Extent] = (),
        content: bytes | None = None,
    ) -> None:
        """Add a regular file.

        Args:
            path: Its name.
            meta: With a regular file's mode.
            size: Of the file, in bytes.
            extents: Its runs in the data region, in file order; what they leave out is a hole. Each
                starts at a multiple of ``sparse_granularity(size)`` in the file and of 4096 in the
                region, and the region holds zeros from its end to the next multiple of that
                granularity. Runs that continue each other count as one.
            content: The whole content instead, at most INLINE_MAX_BYTES.
        """
        check_meta(path, meta, {stat.S_IFREG})
        if content is not None:
            if len(content) != size or size > INLINE_MAX_BYTES or extents:
                raise ValueError(f"inline content of {len(content)} bytes for a file of {size}")
            kind, data = (Content.INLINE, self.inodes.pool.append(content)) if content else (Content.NONE, 0)
        else:
            kind, data = self._place(size, merge_extents(size, extents))
        parent, name = self._parent_of(path)
        self._bind(parent, name, self.inodes.append(meta, size, kind, data))

    def add_symlink(self, path: bytes, meta: Meta, target: bytes) -> None:
        """Add a symlink; its target is kept as it is, never followed."""
        check_meta(path, meta, {stat.S_IFLNK})
        if not 0 < len(target) <= SYMLINK_MAX_BYTES or b"\0" in target:
            raise UsageError(
                f"{show_path(path)}: a symlink target of {len(target)} bytes or with a NUL cannot be"
            )
        parent, name = self._parent_of(path)
        self._bind(
            parent,
            name,
            self.inodes.append(meta, len(target), Content.INLINE, self.inodes.pool.append(target)),
        )

    def add_node(self, path: bytes, meta: Meta) -> None:
        """Add a device, fifo or socket."""
        check_meta(path, meta, S_IFMT_TYPES - {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})
        self._has_whiteout = self._has_whiteout or (stat.S_ISCHR(meta.mode) and meta.rdev == 0)
        parent, name = self._parent_of(path)
        self._bind(parent, name, self.inodes.append(meta, 0, Content.NONE, 0))

    def link(self, path: bytes, target: bytes) -> bool:
        """Make ``path`` another name of ``target``.

        Returns:
            False when this layer has no ``target`` (a lower layer may); nothing was changed then.
        """
        inode = self._resolve(target)
        if inode is None or self._is_whiteout(inode):
            return False
        if stat.S_ISDIR(self.inodes.mode[inode]):
            raise UsageError(f"{show_path(path)}: a hard link to the directory {show_path(target)} cannot be")
        if path != target:
            parent, name = self._parent_of(path)
            self._bind(parent, name, inode)
        return True

    def whiteout(self, path: bytes) -> None:
        """Hide the lower layers' ``path``. What this layer itself has there stays (OCI layer spec)."""
        parent, name = self._parent_of(path)
        current = self._live(parent, name)
        if current is None:
            self._has_whiteout = True
            self._bind(parent, name, self.inodes.append(WHITEOUT, 0, Content.NONE, 0))
        elif stat.S_ISDIR(self.inodes.mode[current]):
            self._make_opaque(current)

    def opaque(self, path: bytes) -> None:
        """Hide what the lower layers have in the directory ``path``."""
        if not path:
            self._make_opaque(_ROOT)
            return
        parent, name = self._parent_of(path)
        self._make_opaque(self._directory_in(parent, name, path))

    @property
    def hides(self) -> bool:
        """Whether something in it means to hide names of lower layers."""
        return self._has_opaque or self._has_whiteout

    def drop_idle_whiteouts(self) -> None:
        """Forget whiteouts below opaque directories: these hide everything already.

        Overlayfs lists such a name although nothing can be found there, because it looks for whiteouts
        only in directories that it merges.
        """
        if not self._has_opaque:
            return
        stack = [(_ROOT, False)]
        while stack:
            directory, alone = stack.pop()
            alone = alone or bool(self.inodes.flags[directory] & _OPAQUE)
            for name, inode in self._names.children(self.inodes.first_name[directory]):
                if stat.S_ISDIR(self.inodes.mode[inode]):
                    stack.append((inode, alone))
                elif alone and self._is_whiteout(inode):
                    number = self._names.find(directory, name)
                    assert number is not None
                    self._names.inode[number] = NO_INODE

    def lookup(self, path: bytes) -> TreeNode | None:
        """What lies at ``path`` in this layer; symlinks are not followed."""
        inode = self._resolve(path)
        if inode is None:
            return None
        inodes = self.inodes
        size, kind, data = inodes.size[inode], inodes.content[inode], inodes.data[inode]
        content: bytes | None = None
        extents: tuple[Extent, ...] = ()
        if kind == Content.INLINE:
            content = inodes.pool.read(data, size)
        elif kind == Content.EXTENT:
            extents = (Extent(0, data, size),)
        elif kind == Content.SPARSE:
            extents = inodes.extents(inode)
        return TreeNode(inode, inodes.meta(inode), size, content, extents)

    def children(self, inode: int) -> list[tuple[bytes, int]]:
        """(name, inode) of a directory, sorted bytewise."""
        return sorted(self._names.children(self.inodes.first_name[inode]))

    def sort_names(self, directory: int) -> None:
        """Sort a directory's names where they are, however many: for ``sorted_children``."""
        self.inodes.first_name[directory] = self._names.sort(self.inodes.first_name[directory])

    def sorted_children(self, directory: int) -> Iterator[tuple[bytes, int]]:
        """As ``children``, one after the other, of a directory to which no name came since ``sort_names``."""
        return self._names.children(self.inodes.first_name[directory])

    def implied_directories(self) -> Iterator[bytes]:
        """Paths of directories that no entry described (the root too), parents first, sorted."""
        stack = [(b"", _ROOT)]
        while stack:
            path, inode = stack.pop()
            if self.inodes.flags[inode] & _IMPLIED:
                yield path
            prefix = path + b"/" if path else b""
            directories = [
                (prefix + name, child)
                for name, child in self._names.children(self.inodes.first_name[inode])
                if stat.S_ISDIR(self.inodes.mode[child])
            ]
            stack += sorted(directories, reverse=True)

    def _place(self, size: int, extents: tuple[Extent, ...]) -> tuple[Content, int]:
        if size == 0:
            return Content.NONE, 0
        if len(extents) == 1 and extents[0].file_offset == 0 and extents[0].length == size:
            return Content.EXTENT, extents[0].data_offset
        return Content.SPARSE, self.inodes.add_extents(extents)

    def _update_directory(self, inode: int, meta: Meta) -> None:
        self.inodes.set_meta(inode, meta)
        self.inodes.flags[inode] &= ~_IMPLIED
        if self.inodes.flags[inode] & _OPAQUE:
            self._make_opaque(inode)

    def _make_opaque(self, inode: int) -> None:
        meta = self.inodes.meta(inode)
        others = tuple(pair for pair in meta.xattrs if pair[0] != OPAQUE_XATTR[0])
        xattrs = tuple(sorted((*others, OPAQUE_XATTR)))
        self.inodes.set_meta(inode, Meta(meta.mode, meta.uid, meta.gid, meta.mtime_ns, meta.rdev, xattrs))
        self.inodes.flags[inode] |= _OPAQUE
        self._has_opaque = True

    def _is_whiteout(self, inode: int) -> bool:
        return stat.S_ISCHR(self.inodes.mode[inode]) and self.inodes.rdev[inode] == 0

    def _live(self, parent: int, name: bytes) -> int | None:
        number = self._names.find(parent, name)
        if number is None or self._names.inode[number] == NO_INODE:
            return None
        return self._names.inode[number]

    def _bind(self, parent: int, name: bytes, inode: int) -> None:
        number = self._names.find(parent, name)
        if number is None:
            self._names.add(parent, name, inode, self.inodes.first_name)
            return
        replaced = self._names.inode[number]
        if replaced != NO_INODE and stat.S_ISDIR(self.inodes.mode[replaced]):
            # The subtree goes with its directory: inodes are never used again, so its names are
            # out of reach. Only the paths that we remember must be forgotten.
            self._directories.clear()
        self._names.inode[number] = inode

    def _parent_of(self, path: bytes) -> tuple[int, bytes]:
        """(directory inode, last component) of a path, with the directories on the way made."""
        if not path:
            raise UsageError("the root must be a directory")
        head, _, name = path.rpartition(b"/")
        check_name(name, path)
        if not head:
            if path.startswith(b"/"):
                raise UsageError(f"{show_path(path)}: an absolute path cannot be")
            return _ROOT, name
        parent = self._directories.get(head)
        if parent is None:
            parent = self._walk(head, path)
            if len(self._directories) >= _CACHED_DIRECTORIES:
                self._directories.clear()
            self._directories[head] = parent
        return parent, name

    def _walk(self, head: bytes, path: bytes) -> int:
        components = head.split(b"/")
        for component in components:
            check_name(component, path)
        parent = _ROOT
        for component in components:
            parent = self._directory_in(parent, component, path)
        return parent

    def _directory_in(self, parent: int, name: bytes, path: bytes) -> int:
        current = self._live(parent, name)
        if current is not None and stat.S_ISDIR(self.inodes.mode[current]):
            return current
        if current is not None and not self._is_whiteout(current):
            what = "symlink" if stat.S_ISLNK(self.inodes.mode[current]) else "file"
            raise UsageError(f"{show_path(path)}: lies below {show_path(name)}, which is a {what}")
        inode = self.inodes.append(_IMPLIED_META, 0, Content.NONE, 0, _IMPLIED)
        self._bind(parent, name, inode)
        if current is not None:
            self._make_opaque(inode)
        return inode

    def _resolve(self, path: bytes) -> int | None:
        inode = _ROOT
        for component in path.split(b"/") if path else ():
            found = self._live(inode, component)
            if found is None:
                return None
            inode = found
        return inode
