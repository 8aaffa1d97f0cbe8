"""How ``cafs ls`` writes files: as ``ls`` does, or as documents for machines. Pure."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cafs.index.browse import show_name, symlink_target
from cafs.index.merge import MergedTree, Stack, visible_xattrs

_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Line:
    """One file."""

    mode: str
    nlink: int
    uid: int
    gid: int
    size: str
    """Bytes, or major and minor number."""
    time: str
    name: str

    @classmethod
    def of(cls, tree: MergedTree, name: bytes, stack: Stack) -> Line:
        """The line of a file."""
        inode = tree.inode(stack)
        meta = inode.meta
        size = str(inode.size)
        if stat.S_ISCHR(meta.mode) or stat.S_ISBLK(meta.mode):
            size = f"{os.major(meta.rdev)}, {os.minor(meta.rdev)}"
        shown = show_name(name)
        if stat.S_ISLNK(meta.mode):
            shown += f" -> {show_name(symlink_target(tree, stack))}"
        mode = stat.filemode(meta.mode) + ("+" if visible_xattrs(inode) else "")
        return cls(mode, inode.nlink, meta.uid, meta.gid, size, format_time(meta.mtime_ns), shown)


def format_lines(lines: list[Line]) -> str:
    """Aligned columns; a ``+`` behind the mode tells of extended attributes."""
    if not lines:
        return ""
    columns = [[line.mode, str(line.nlink), str(line.uid), str(line.gid), line.size] for line in lines]
    widths = [max(len(row[i]) for row in columns) for i in range(5)]
    texts = []
    for line, row in zip(lines, columns, strict=True):
        mode, *numbers = row
        aligned = " ".join(number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        texts.append(f"{mode:<{widths[0]}} {aligned} {line.time} {line.name}")
    return "\n".join(texts)


def describe(tree: MergedTree, path: bytes, stack: Stack) -> dict[str, Any]:
    """A file as a document. A path or a symlink's target that is not UTF-8 is given as hex besides."""
    inode = tree.inode(stack)
    meta = inode.meta
    document: dict[str, Any] = {
        **_text("path", path),
        "type": file_type(meta.mode),
        "mode": f"{stat.S_IMODE(meta.mode):04o}",
        "uid": meta.uid,
        "gid": meta.gid,
        "nlink": inode.nlink,
        "size": inode.size,
        "mtime_ns": meta.mtime_ns,
        "layer": stack[0].layer,
    }
    if stat.S_ISLNK(meta.mode):
        document |= _text("target", symlink_target(tree, stack))
    if stat.S_ISCHR(meta.mode) or stat.S_ISBLK(meta.mode):
        document["device"] = [os.major(meta.rdev), os.minor(meta.rdev)]
    if xattrs := visible_xattrs(inode):
        document["xattrs"] = {name.decode("utf-8", "backslashreplace"): value.hex() for name, value in xattrs}
    return document


def _text(key: str, value: bytes) -> dict[str, str]:
    try:
        return {key: value.decode()}
    except UnicodeDecodeError:
        return {key: value.decode("utf-8", "backslashreplace"), f"{key}_hex": value.hex()}


def file_type(mode: int) -> str:
    """A word for S_IFMT."""
    words = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFCHR: "char device",
        stat.S_IFBLK: "block device",
        stat.S_IFIFO: "fifo",
    }
    return words.get(stat.S_IFMT(mode), "socket")


def format_time(mtime_ns: int) -> str:
    """``"2026-11-24 01:50"`` in UTC; a year that no calendar has as seconds since 1970."""
    try:
        return f"{_EPOCH + timedelta(seconds=mtime_ns // _NS):%Y-%m-%d %H:%M}"
    except OverflowError:
        return f"@{mtime_ns // _NS}"
