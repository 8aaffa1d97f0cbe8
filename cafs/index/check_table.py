"""Checks a chunk table in bulk; part of ``check_index``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cafs.core.chunk import MAX_CHUNK_BYTES, Codec
from cafs.core.source import BlobRef
from cafs.errors import IntegrityError
from cafs.index.table_array import ROW

_BATCH_ROWS = 1 << 18
CROWD_ROWS, CROWD_BYTES = 1024, 256 << 10
"""So many rows in a row have so many plain bytes together at least; writers' have a hundred times more. With
a chunk for each byte one read would keep the mount server busy for seconds, and other readers waiting."""


def check_chunk_table(table: memoryview, data_start: int, data_end: int, blobs: Sequence[BlobRef]) -> None:
    """Check every row.

    Raises:
        IntegrityError: a gap, an overlap, a row that no writer makes, a frame outside its blob.
    """
    rows = np.frombuffer(table, dtype=ROW)
    sizes = np.array([blob.size for blob in blobs], dtype=np.uint64)
    start = data_start
    for first in range(0, len(rows), _BATCH_ROWS):
        batch = rows[first : first + _BATCH_ROWS]
        _check_batch(batch, first, start, sizes)
        start = int(batch["end"][-1])
    if start != data_end:
        raise IntegrityError(f"the chunk table ends at {start}, the data region at {data_end}")
    _check_frames_apart(rows)


def _check_batch(rows: NDArray[np.void], first: int, start: int, blob_sizes: NDArray[np.uint64]) -> None:
    ends = rows["end"]
    starts = np.empty_like(ends)
    starts[0] = start
    starts[1:] = ends[:-1]
    _refuse(ends <= starts, first, "ends before it starts")
    plain = ends - starts
    crowds = ends[CROWD_ROWS - 1 :] - starts[: max(len(starts) - CROWD_ROWS + 1, 0)]
    _refuse(crowds < CROWD_BYTES, first, f"begins {CROWD_ROWS} chunks of less than {CROWD_BYTES} bytes")
    frames, codec, blob = rows["frame_bytes"].astype(np.uint64), rows["codec"], rows["blob"]
    _refuse(plain > MAX_CHUNK_BYTES, first, f"is longer than {MAX_CHUNK_BYTES} bytes")
    _refuse(codec > max(Codec), first, "has an unknown codec")
    _refuse((codec == Codec.RAW) & (frames != plain), first, "is raw, but its frame has another size")
    _refuse((frames > plain) | (frames == 0), first, "has a frame longer than its plain bytes, or none")
    _refuse(blob >= len(blob_sizes), first, "names a blob that is not in the blob table")
    sizes, offsets = blob_sizes[blob], rows["offset"]
    # Compared by subtraction: the sum of two hostile numbers could wrap around.
    _refuse((offsets > sizes) | (frames > sizes - np.minimum(offsets, sizes)), first, "lies outside its blob")
    _refuse(rows["reserved"].any(axis=1), first, "has reserved bytes that are not zero")


def _check_frames_apart(rows: NDArray[np.void]) -> None:
    """Two chunks may share a frame, but frames may not overlap."""
    order = np.lexsort((rows["offset"], rows["blob"]))
    one, two = order[:-1], order[1:]
    offset, frame = rows["offset"], rows["frame_bytes"]
    same_blob = rows["blob"][one] == rows["blob"][two]
    distance = offset[two] - offset[one]
    suspects = np.flatnonzero(same_blob & (distance < frame[one]))
    for number in suspects.tolist():
        a, b = int(one[number]), int(two[number])
        if distance[number] or frame[a] != frame[b] or rows["digest"][a] != rows["digest"][b]:
            raise IntegrityError(f"chunk table rows {min(a, b)} and {max(a, b)} have overlapping frames")


def _refuse(bad: NDArray[np.bool_] | np.bool_, first: int, what: str) -> None:
    if bad.any():
        raise IntegrityError(f"chunk table row {first + int(np.argmax(bad))} {what}")
