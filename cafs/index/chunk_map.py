"""Chunk maps: how EROFS describes a sparse file. Pure; used by ``layout`` and ``writer``.

An inode of layout CHUNK_BASED carries one u32 block address for each chunk of the file, NULL_ADDRESS
for a hole. The chunk size is the file's own choice: the largest power of two that all its runs start
and end at, so that a terabyte with two runs in it needs few entries.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from cafs.core.entry import Extent
from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    CHUNK_BLKBITS_MASK,
    MAX_CHUNK_MAP_ENTRIES,
    NULL_ADDRESS,
    sparse_granularity,
)
from cafs.errors import UsageError
from cafs.index.slots import round_up


def chunk_bits(size: int, extents: Sequence[Extent]) -> int:
    """log2 of the chunk size over BLOCK_BITS.

    Raises:
        UsageError: the map would have more than MAX_CHUNK_MAP_ENTRIES entries.
    """
    bits = min(CHUNK_BLKBITS_MASK, (round_up(size, BLOCK_BYTES) >> BLOCK_BITS).bit_length())
    for edge in _edges(size, extents):
        if edge:
            bits = min(bits, (edge & -edge).bit_length() - 1 - BLOCK_BITS)
    if map_entries(size, bits) > MAX_CHUNK_MAP_ENTRIES:
        raise UsageError(f"a sparse file of {size} bytes with {len(extents)} runs has too many pieces")
    return bits


def map_entries(size: int, bits: int) -> int:
    """Entries of a file's chunk map."""
    return -(-size >> (BLOCK_BITS + bits))


def encode_chunk_map(size: int, extents: Sequence[Extent], bits: int, data_start: int) -> bytes:
    """The map, little-endian.

    Args:
        size: Of the file.
        extents: Its runs.
        bits: From ``chunk_bits``.
        data_start: Where the data region starts in the virtual image.
    """
    chunk_bytes = BLOCK_BYTES << bits
    addresses = array("I", [NULL_ADDRESS]) * map_entries(size, bits)
    for extent in extents:
        first = extent.file_offset // chunk_bytes
        address = (data_start + extent.data_offset) // BLOCK_BYTES
        for number in range(-(-extent.length // chunk_bytes)):
            addresses[first + number] = address + (number << bits)
    return _little_endian(addresses)


def _edges(size: int, extents: Sequence[Extent]) -> list[int]:
    """Offsets at which data and holes meet. The region is zero from a run's end up to its edge."""
    granularity = sparse_granularity(size)
    edges = []
    for extent in extents:
        end = round_up(extent.file_offset + extent.length, granularity)
        edges.append(extent.file_offset)
        if end < size:
            edges.append(end)
    return edges


def _little_endian(words: array[int]) -> bytes:
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()
