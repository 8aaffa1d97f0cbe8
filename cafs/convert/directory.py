"""A directory on disk as a layer's entries: sorted, links in it never followed, changes under way noticed.

Names are taken as they are: ``.wh.`` means nothing here, unlike in a layer's tar.

The diffID of such a layer is sha256 over its entries and contents, see docs/formats.md: the same tree
gives the same, on every machine.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from cafs.convert.feeds import TreeFeed
from cafs.convert.layer_builder import LayerBuilder
from cafs.core.entry import Meta
from cafs.core.progress import Step
from cafs.core.tar import Entry
from cafs.core.tar_sparse import MAX_RUNS
from cafs.errors import StorageError

_ENTRY = struct.Struct("<IIIqQQ")
"""mode, uid, gid, mtime_ns, rdev, size."""


def directory_feed(root: Path, step: Step) -> TreeFeed:
    """Feeds everything below ``root``. Takes nothing from the pieces, but asks for one at every entry and
    every read: so a cancelled conversion ends there."""

    def feed(builder: LayerBuilder, pieces: Iterator[bytes]) -> bytes:
        # Only here: whoever names a link as the root means the directory behind it.
        return _Walk(builder, step, pieces).run(os.fsencode(root.resolve()))

    return feed


class _Walk:
    """One pass over a tree."""

    def __init__(self, builder: LayerBuilder, step: Step, heartbeat: Iterator[bytes]) -> None:
        self._builder = builder
        self._step = step
        self._heartbeat = heartbeat
        self._hash = hashlib.sha256()
        self._linked: dict[tuple[int, int], bytes] = {}

    def run(self, root: bytes) -> bytes:
        """Add all of it; the raw diffID."""
        try:
            self._add(root, b"")
            waiting = [b""]
            while waiting:
                folder = waiting.pop()
                for name in sorted(os.listdir(os.path.join(root, folder))):  # noqa: PTH118, PTH208  bytes
                    path = folder + b"/" + name if folder else name
                    if self._add(root + b"/" + path, path):
                        waiting.append(path)
        except OSError as e:
            where = os.fsdecode(e.filename or root)
            raise StorageError(f"cannot read {where}: {e.strerror}") from e
        return self._hash.digest()

    def _add(self, full: bytes, path: bytes) -> bool:
        """Add one entry; whether it is a directory."""
        next(self._heartbeat)
        found = os.lstat(full)
        kind = stat.S_IFMT(found.st_mode)
        if kind != stat.S_IFDIR and found.st_nlink > 1:
            first = self._linked.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                self._note(path, first, b"")
                self._builder.add_literally(
                    path, _entry(path, Meta(found.st_mode), 0, first, is_hard_link=True), _nothing
                )
                return False
        meta = _meta(full, found)
        link = os.readlink(full) if kind == stat.S_IFLNK else b""  # noqa: PTH115  bytes
        size = found.st_size if kind == stat.S_IFREG else 0
        self._note(path, link, _ENTRY.pack(meta.mode, meta.uid, meta.gid, meta.mtime_ns, meta.rdev, size))
        for pair in meta.xattrs:
            self._note(*pair, b"")
        entry = _entry(path, meta, size, link)
        if kind == stat.S_IFREG and size:
            self._add_file(full, entry, found)
        else:
            self._builder.add_literally(path, entry, _nothing)
        return kind == stat.S_IFDIR

    def _add_file(self, full: bytes, entry: Entry, found: os.stat_result) -> None:
        descriptor = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if found.st_blocks * 512 < found.st_size:
                entry.runs = _data_runs(descriptor, found.st_size)
            self._builder.add_literally(entry.name, entry, self._filler(descriptor, entry))
            now = os.fstat(descriptor)
            if (now.st_size, now.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
                raise StorageError(f"{os.fsdecode(full)} changed while it was read: convert again")
        finally:
            os.close(descriptor)

    def _filler(self, descriptor: int, entry: Entry) -> Callable[[memoryview], None]:
        runs = entry.runs if entry.runs is not None else ((0, entry.size),)
        places = iter([(offset, offset + length) for offset, length in runs])
        at = end = 0

        def fill(view: memoryview) -> None:
            nonlocal at, end
            filled = 0
            while filled < len(view):
                if at == end:
                    at, end = next(places)
                    self._hash.update(struct.pack("<QQ", at, end))
                part = view[filled : filled + end - at]
                next(self._heartbeat)
                got = os.preadv(descriptor, [part], at)
                if not got:
                    raise StorageError(f"{os.fsdecode(entry.name)} shrank while it was read: convert again")
                self._hash.update(part[:got])
                self._step.advance(got)
                at, filled = at + got, filled + got

        return fill

    def _note(self, *parts: bytes) -> None:
        for part in parts:
            self._hash.update(struct.pack("<Q", len(part)))
            self._hash.update(part)


def _entry(path: bytes, meta: Meta, size: int, link: bytes, *, is_hard_link: bool = False) -> Entry:
    return Entry(path, meta, size, size, link, is_hard_link, runs=None, map_in_data=False)


def _nothing(view: memoryview) -> None:
    if view:
        raise AssertionError("an entry without data was asked for some")


def _meta(full: bytes, found: os.stat_result) -> Meta:
    is_device = stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)
    return Meta(
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        mtime_ns=found.st_mtime_ns,
        rdev=found.st_rdev if is_device else 0,
        xattrs=_xattrs(full),
    )


def _xattrs(full: bytes) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = sorted(os.fsencode(name) for name in os.listxattr(full, follow_symlinks=False))
        return tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in names)
    except OSError as e:
        if e.errno == errno.ENOTSUP:
            return ()
        raise


def _data_runs(descriptor: int, size: int) -> tuple[tuple[int, int], ...] | None:
    """Where a sparse file has data; None when it has no holes, or more than a map may have."""
    runs, at = [], 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # a hole up to the end
                break
            raise
        at = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
        runs.append((start, at - start))
        if len(runs) > MAX_RUNS:
            return None
    return None if runs == [(0, size)] else tuple(runs)
