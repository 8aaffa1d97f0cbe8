"""Paths in a merged tree: which file a path means, with symlinks that stay inside the image. Pure.

Used by ``cafs ls`` and ``cafs cat``. Mounts do not need it: there the kernel walks paths.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from cafs.errors import IntegrityError, NotFoundError, UsageError
from cafs.index.merge import MergedTree, Stack

_MAX_SYMLINKS = 40
"""As the kernel (MAXSYMLINKS)."""
_MAX_DEPTH = 2048


def resolve(tree: MergedTree, path: bytes, *, follow_last: bool) -> Stack:
    """The file at ``path``, which is taken from the image's root with or without a leading slash.

    Args:
        tree: Where to look.
        path: Names separated by slashes; ``..`` at the root stays there. One at its end asks for a directory.
        follow_last: Whether a symlink at the end is followed too.

    Raises:
        NotFoundError: there is no such file.
        UsageError: too many symlinks.
    """
    trail: list[Stack] = [tree.root]
    names = [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]
    links = 0
    while names:
        name = names.pop()
        if name == b"..":
            trail = trail[:-1] or trail
            continue
        if not tree.inode(trail[-1]).is_directory:
            raise NotFoundError(
                f"{show_name(path)}: {show_name(name)} lies below something that is no directory"
            )
        found = tree.lookup(trail[-1], name)
        if found is None:
            raise NotFoundError(f"{show_name(path)}: there is no such file in the image")
        if stat.S_ISLNK(tree.inode(found).meta.mode) and (names or follow_last):
            links += 1
            if links > _MAX_SYMLINKS:
                raise UsageError(f"{show_name(path)}: too many symlinks")
            target = symlink_target(tree, found)
            trail = trail[:1] if target.startswith(b"/") else trail
            names += [part for part in reversed(target.split(b"/")) if part not in {b"", b"."}]
            continue
        trail.append(found)
    if path.endswith(b"/") and not tree.inode(trail[-1]).is_directory:
        raise NotFoundError(f"{show_name(path)} is no directory: leave the slash at its end out")
    return trail[-1]


def walk(tree: MergedTree, top: Stack, path: bytes = b"") -> Iterator[tuple[bytes, Stack]]:
    """(path, file) of everything below ``top``, a directory before its entries, sorted by name.

    Raises:
        IntegrityError: a layer is damaged, or directories are too deep to be a tree.
    """
    waiting = [(path, top, 0)]
    while waiting:
        at, stack, depth = waiting.pop()
        yield at, stack
        if not tree.inode(stack).is_directory:
            continue
        if depth > _MAX_DEPTH:
            raise IntegrityError(f"{show_name(at[:100])}: directories are more than {_MAX_DEPTH} levels deep")
        prefix = at + b"/" if at else b""
        waiting += [(prefix + name, child, depth + 1) for name, child in reversed(tree.children(stack))]


def symlink_target(tree: MergedTree, stack: Stack) -> bytes:
    """Target of a symlink."""
    return tree.reader(stack[0].layer).symlink_target(stack[0].nid)


def show_name(name: bytes) -> str:
    """A name for people: bytes that are not text, or steer a terminal, as escapes."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
