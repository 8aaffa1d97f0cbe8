"""Counts and sizes of layer indexes, for ``cafs inspect``. Pure; numpy in bulk.

A chunk is counted as often as it is listed; *distinct* chunks once, over all layers looked at so far.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cafs.core.erofs import BLOCK_BYTES
from cafs.index.layer_index import LayerIndex
from cafs.index.reader import ErofsReader
from cafs.index.table_array import plain_sizes, table_rows


@dataclass(frozen=True, slots=True)
class ChunkTotals:
    """Some chunks."""

    chunks: int = 0
    plain_bytes: int = 0
    frame_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """One layer."""

    inodes: int
    index_bytes: int
    data_bytes: int
    file_bytes: int
    """What its files would take without sharing: sizes rounded up to blocks, without holes and inline."""
    listed: ChunkTotals
    fresh: ChunkTotals
    """The distinct chunks that no lower layer has."""


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """All layers."""

    layers: tuple[LayerSummary, ...]
    distinct: ChunkTotals
    histogram: tuple[tuple[int, int], ...]
    """(upper bound of the plain size, distinct chunks up to it and over the one before), powers of two."""

    @property
    def dedup_ratio(self) -> float:
        """Bytes of files for each byte of distinct chunks; 1 without any sharing."""
        files = sum(layer.file_bytes for layer in self.layers)
        return files / self.distinct.plain_bytes if self.distinct.plain_bytes else 1.0


def summarize(indexes: Sequence[LayerIndex]) -> ImageSummary:
    """Summarize an image's layers, lowest first."""
    seen: set[bytes] = set()
    layers, fresh_sizes = [], []
    for index in indexes:
        sizes, frames = plain_sizes(index), table_rows(index)["frame_bytes"].astype(np.int64)
        fresh = _first_seen(index, seen)
        fresh_sizes.append(sizes[fresh])
        layers.append(
            LayerSummary(
                inodes=index.header.inode_count,
                index_bytes=index.header.file_bytes,
                data_bytes=index.header.data_bytes,
                file_bytes=_file_bytes(index),
                listed=ChunkTotals(len(sizes), int(sizes.sum()), int(frames.sum())),
                fresh=ChunkTotals(int(fresh.sum()), int(sizes[fresh].sum()), int(frames[fresh].sum())),
            )
        )
    distinct = ChunkTotals(
        sum(layer.fresh.chunks for layer in layers),
        sum(layer.fresh.plain_bytes for layer in layers),
        sum(layer.fresh.frame_bytes for layer in layers),
    )
    return ImageSummary(tuple(layers), distinct, _histogram(fresh_sizes))


def _first_seen(index: LayerIndex, seen: set[bytes]) -> NDArray[np.bool_]:
    """Which rows hold a chunk that is not in ``seen`` yet; adds them."""
    fresh = np.zeros(len(index.table), dtype=np.bool_)
    for row, digest in enumerate(table_rows(index)["digest"].tolist()):
        if digest not in seen:
            seen.add(digest)
            fresh[row] = True
    return fresh


def _file_bytes(index: LayerIndex) -> int:
    reader = ErofsReader(index.metadata, index.virtual_bytes)
    total = 0
    counted: set[int] = set()
    stack = [reader.root_nid]
    while stack:
        for _, nid, _ in reader.entries(stack.pop()):
            mode = reader.mode(nid)
            if stat.S_ISDIR(mode):
                stack.append(nid)
            elif stat.S_ISREG(mode) and nid not in counted:
                counted.add(nid)
                extents = reader.extents(nid)
                if not isinstance(extents, bytes):
                    total += sum(-(-length // BLOCK_BYTES) * BLOCK_BYTES for _, _, length in extents)
    return total


def _histogram(parts: Sequence[NDArray[np.int64]]) -> tuple[tuple[int, int], ...]:
    sizes = np.concatenate([*parts, np.empty(0, np.int64)])
    if not len(sizes):
        return ()
    powers = np.ceil(np.log2(np.maximum(sizes, 1))).astype(np.int64)
    counts = np.bincount(powers)
    first = int(np.flatnonzero(counts)[0])
    return tuple((1 << power, int(counts[power])) for power in range(first, len(counts)))
