"""A chunk table as a numpy array, for what goes over all of it at once. Loads numpy; mounts do not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cafs.core.chunk_table import ROW_BYTES
from cafs.index.layer_index import LayerIndex

ROW = np.dtype(
    [
        ("end", "<u8"),
        ("digest", "V32"),
        ("offset", "<u8"),
        ("frame_bytes", "<u4"),
        ("blob", "<u4"),
        ("codec", "u1"),
        ("reserved", "u1", (7,)),
    ]
)
assert ROW.itemsize == ROW_BYTES


def table_rows(index: LayerIndex) -> NDArray[np.void]:
    """All rows; a view of the map."""
    return np.frombuffer(index.table.raw, dtype=ROW)


def plain_sizes(index: LayerIndex) -> NDArray[np.int64]:
    """Plain bytes of every row (of a table that was checked)."""
    ends = table_rows(index)["end"].astype(np.int64)
    sizes: NDArray[np.int64] = ends - np.concatenate(([index.header.metadata_bytes], ends[:-1]))[: len(ends)]
    return sizes
