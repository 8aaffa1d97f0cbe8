"""Maps of sparse files in tar: old GNU headers and PAX 0.0, 0.1, 1.0.

A map is a list of (offset in the file, length), in order; the archive holds those runs one after the
other. Used by ``cafs.core.tar``. Source: GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from cafs.core.tar_header import BLOCK_BYTES, number_field
from cafs.core.tar_pax import decimal
from cafs.errors import IntegrityError

Runs = tuple[tuple[int, int], ...]

MAX_RUNS = 1 << 18
"""A map is kept in memory; a file with more runs is refused."""
_OLD_GNU_HEADER_RUNS, _OLD_GNU_BLOCK_RUNS = 4, 21
_NUMBER_DIGITS = 20


def old_gnu_runs(block: bytes, *, extension: bool) -> tuple[list[tuple[int, int]], bool]:
    """The runs of a header (at 386) or of an extension block (at 0), and whether another follows."""
    start, slots, more_at = (0, _OLD_GNU_BLOCK_RUNS, 504) if extension else (386, _OLD_GNU_HEADER_RUNS, 482)
    runs = []
    for at in range(start, start + slots * 24, 24):
        if block[at] == 0 and block[at + 12] == 0:
            break
        offset = number_field(block, at, at + 12, "sparse offset")
        runs.append((offset, number_field(block, at + 12, at + 24, "sparse length")))
    return runs, block[more_at] != 0


def old_gnu_real_size(block: bytes) -> int:
    """Size of the file with its holes."""
    return number_field(block, 483, 495, "real size")


def pax_runs(records: list[tuple[bytes, bytes]]) -> list[tuple[int, int]] | None:
    """The map of PAX 0.0 or 0.1, or None when the records hold none.

    Raises:
        IntegrityError: the map is malformed.
    """
    flat: list[int] | None = None
    for key, value in records:
        if key == b"GNU.sparse.map":
            parts = value.split(b",", 2 * MAX_RUNS + 1) if value else []
            flat = [decimal(number, "GNU.sparse.map") for number in parts]
        elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            flat = [] if flat is None else flat
            if len(flat) % 2 != (key == b"GNU.sparse.numbytes"):
                raise IntegrityError("sparse map whose offsets and lengths do not alternate")
            flat.append(decimal(value, "GNU.sparse"))
        elif key == b"GNU.sparse.numblocks" and flat is None:
            flat = []
    if flat is None:
        return None
    if len(flat) % 2:
        raise IntegrityError("sparse map with an offset that has no length")
    return list(zip(flat[::2], flat[1::2], strict=True))


class SparseMapReader:
    """PAX 1.0: the map stands before the data, decimal numbers on lines, padded to a block."""

    def __init__(self) -> None:
        self._rest = b""
        self._numbers: list[int] = []
        self._wanted: int | None = None

    def feed(self, block: bytes) -> list[tuple[int, int]] | None:
        """Take the next 512 bytes of the member's data; the runs when the map is complete.

        Raises:
            IntegrityError: it is not a map.
        """
        if len(block) != BLOCK_BYTES:
            raise IntegrityError("sparse map that ends within a block")
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._take(line)
            if self._wanted is not None and len(self._numbers) == self._wanted:
                return list(zip(self._numbers[::2], self._numbers[1::2], strict=True))
        if len(self._rest) > _NUMBER_DIGITS:
            raise IntegrityError("sparse map that is not made of numbers")
        return None

    def _take(self, line: bytes) -> None:
        number = decimal(line, "sparse map")
        if self._wanted is not None:
            self._numbers.append(number)
        elif 0 <= number <= MAX_RUNS:
            self._wanted = 2 * number
        else:
            raise IntegrityError(f"sparse map of {number} runs, at most {MAX_RUNS} are accepted")


def check_runs(runs: list[tuple[int, int]], size: int, stored_bytes: int) -> Runs:
    """Check a map against the file's size and against what the archive holds; empty runs go.

    Raises:
        IntegrityError: runs overlap, are out of order, leave the file or are not what is stored.
    """
    if len(runs) > MAX_RUNS:
        raise IntegrityError(f"sparse map of {len(runs)} runs, at most {MAX_RUNS} are accepted")
    at = total = 0
    for offset, length in runs:
        if offset < at or length < 0 or offset + length > size:
            raise IntegrityError("sparse map whose runs overlap, are out of order or leave the file")
        at = offset + length
        total += length
    if total != stored_bytes:
        raise IntegrityError(f"sparse map of {total} bytes with {stored_bytes} stored")
    return tuple(run for run in runs if run[1])
