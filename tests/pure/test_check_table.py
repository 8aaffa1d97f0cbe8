"""What a chunk table may ask of its readers."""

from __future__ import annotations

import numpy as np
import pytest

from cafs.core.chunk import Codec
from cafs.core.digest import sha256_digest
from cafs.core.source import BlobRef
from cafs.errors import IntegrityError
from cafs.index.check_table import CROWD_BYTES, CROWD_ROWS, check_chunk_table
from cafs.index.table_array import ROW

MEAN_BYTES = CROWD_BYTES // CROWD_ROWS
START = 4096


def check(sizes: list[int]) -> None:
    """A table of raw chunks of these sizes."""
    rows = np.zeros(len(sizes), dtype=ROW)
    ends = np.cumsum(sizes)
    rows["end"] = START + ends
    rows["offset"] = ends - sizes
    rows["frame_bytes"] = sizes
    rows["codec"] = Codec.RAW
    total = sum(sizes)
    check_chunk_table(memoryview(rows.tobytes()), START, START + total, [BlobRef(sha256_digest(b""), total)])


def test_chunks_of_any_size_are_read() -> None:
    check([1])
    check([1] * (CROWD_ROWS - 1))
    check([MEAN_BYTES] * (3 * CROWD_ROWS))
    check(([1] * (CROWD_ROWS // 2) + [CROWD_BYTES]) * 4)


@pytest.mark.parametrize("before", [0, 7, 5000])
def test_a_crowd_of_tiny_chunks_is_refused(before: int) -> None:
    with pytest.raises(IntegrityError, match=f"row {before} begins 1024 chunks"):
        check([CROWD_BYTES] * before + [MEAN_BYTES - 1] * CROWD_ROWS + [CROWD_BYTES] * 3)
