"""Sparse files: runs as an archive has them, widened to the granularity that an index keeps holes at."""

from __future__ import annotations

from collections.abc import Iterator

from cafs.convert.region import Fill
from cafs.core.tar_sparse import Runs

Part = tuple[int, int]
"""(offset in the file, length) of stored bytes."""


def aligned_runs(runs: Runs, size: int, granularity: int) -> Iterator[tuple[int, int, list[Part]]]:
    """Ranges of whole granules that hold data, in order, with the stored runs in each.

    Yields:
        (start, end, parts): ``start`` is a multiple of ``granularity``, ``end`` too or the file's end.
    """
    start = end = 0
    parts: list[Part] = []
    for offset, length in runs:
        first = offset - offset % granularity
        if parts and first > end:
            yield start, min(end, size), parts
            parts = []
        if not parts:
            start = first
        parts.append((offset, length))
        end = offset + length + -(offset + length) % granularity
    if parts:
        yield start, min(end, size), parts


def fill_run(start: int, parts: list[Part], fill: Fill) -> Fill:
    """A fill for one range of ``aligned_runs``: its parts' bytes, and zeros between them."""
    left = list(reversed(parts))
    position = start

    def fill_next(view: memoryview) -> None:
        nonlocal position
        view[:] = bytes(len(view))
        end = position + len(view)
        while left and left[-1][0] < end:
            offset, length = left.pop()
            now = min(offset + length, end)
            fill(view[offset - position : now - position])
            if now < offset + length:
                left.append((now, offset + length - now))
        position = end

    return fill_next
