"""What a tree looks like from outside: everything that stat, listxattr, readlink and read say."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

IGNORED_XATTRS = frozenset({"security.selinux", "trusted.overlay.origin"})


@dataclass(frozen=True, slots=True)
class Seen:
    """One name of a tree."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int | None
    """Of regular files and symlinks."""
    nlink: int | None
    """Not of directories: filesystems differ there."""
    rdev: int
    content: str
    """sha256 of a regular file, target of a symlink."""
    xattrs: tuple[tuple[str, bytes], ...]
    linked_as: bytes
    """First name, in order, of the same inode."""


def observe(root: Path) -> dict[bytes, Seen]:
    """Everything below ``root``, and ``root`` itself as ``b""``."""
    seen: dict[bytes, Seen] = {}
    first_names: dict[tuple[int, int], bytes] = {}
    for path in _walk(root):
        name = b"" if path == root else os.fsencode(path.relative_to(root))
        status = path.lstat()
        is_directory = stat.S_ISDIR(status.st_mode)
        seen[name] = Seen(
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
            size=None if is_directory else status.st_size,
            nlink=None if is_directory else status.st_nlink,
            rdev=status.st_rdev,
            content=_content(path, status.st_mode),
            xattrs=_xattrs(path),
            linked_as=first_names.setdefault((status.st_dev, status.st_ino), name),
        )
    return seen


def _walk(path: Path) -> list[Path]:
    found = [path]
    for below in sorted(path.iterdir(), key=os.fsencode):
        found += _walk(below) if stat.S_ISDIR(below.lstat().st_mode) else [below]
    return found


def _content(path: Path, mode: int) -> str:
    if stat.S_ISLNK(mode):
        return os.readlink(path)  # noqa: PTH115  a Path would lose slashes of the target
    if stat.S_ISREG(mode):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _xattrs(path: Path) -> tuple[tuple[str, bytes], ...]:
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name not in IGNORED_XATTRS]
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))
