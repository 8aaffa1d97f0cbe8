"""What a layer tree does not take: names, metadata and extents that cannot be. Pure; used by ``tree``."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from cafs.core.entry import Extent, Meta
from cafs.core.erofs import (
    BLOCK_BYTES,
    NAME_MAX_BYTES,
    encode_device,
    encode_xattrs,
    sparse_granularity,
)
from cafs.errors import UsageError

_NO_ID = 0xFFFFFFFF
_PATH_MAX_BYTES = 4095


def check_name(name: bytes, path: bytes) -> None:
    """Refuse a component (``name``) of ``path`` that no filesystem has, and a path that is too long.

    Raises:
        UsageError: naming the path.
    """
    if name in {b"", b".", b".."} or b"\0" in name:
        raise UsageError(f"{show_path(path)}: a path with an empty, '.' or '..' component or a NUL cannot be")
    if len(path) > _PATH_MAX_BYTES:
        raise UsageError(f"{show_path(path)}: a path of {len(path)} bytes is longer than {_PATH_MAX_BYTES}")
    if len(name) > NAME_MAX_BYTES:
        raise UsageError(f"{show_path(path)}: a name of {len(name)} bytes is longer than {NAME_MAX_BYTES}")


def check_meta(path: bytes, meta: Meta, types: set[int] | frozenset[int]) -> None:
    """Refuse metadata that an index cannot hold, or that is not of one of the ``types`` (S_IFMT).

    Raises:
        UsageError: naming the path.
    """
    try:
        if stat.S_IFMT(meta.mode) not in types or meta.mode >> 16:
            raise UsageError(f"mode {meta.mode:#o} is not one for this entry")
        # The highest number is "nobody at all" to the kernel (chown's -1).
        if not 0 <= meta.uid < _NO_ID or not 0 <= meta.gid < _NO_ID:
            raise UsageError(f"owner {meta.uid}:{meta.gid} does not fit 32 bits")
        if meta.rdev:
            encode_device(meta.rdev)
        if meta.xattrs:
            encode_xattrs(meta.xattrs)
    except UsageError as e:
        raise UsageError(f"{show_path(path)}: {e}") from e


def merge_extents(size: int, extents: Sequence[Extent]) -> tuple[Extent, ...]:
    """Join runs that continue each other.

    Raises:
        ValueError: they overlap, leave the file or start off the granularity; a mistake of the caller.
    """
    merged: list[Extent] = []
    for extent in extents:
        last = merged[-1] if merged else None
        if (
            last
            and last.file_offset + last.length == extent.file_offset
            and last.data_offset + last.length == extent.data_offset
        ):
            merged[-1] = Extent(last.file_offset, last.data_offset, last.length + extent.length)
        elif extent.length:
            merged.append(extent)
    end, granularity = 0, sparse_granularity(size)
    for extent in merged:
        if extent.file_offset % granularity or extent.data_offset % BLOCK_BYTES or extent.file_offset < end:
            raise ValueError(f"{extent} does not start at a block or overlaps the one before")
        end = extent.file_offset + extent.length
    if end > size:
        raise ValueError(f"extents end at {end}, the file at {size}")
    return tuple(merged)


def show_path(path: bytes) -> str:
    """A path for a message."""
    return repr(path[:200].decode("utf-8", "backslashreplace"))
