"""``write_merged``: makes one EROFS metadata region of the layers of an image.

Composes what is to be made anew (``merge_plan``, ``merged_head``) with the layers' own regions
(``moved_region``), and writes the file that ``merged_index`` opens. Loads numpy.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np

from cafs.core.erofs import BLOCK_BITS, SLOT_BITS, Layout
from cafs.index.layer_index import LayerIndex
from cafs.index.merge import LayerNid, MergedTree
from cafs.index.merge_plan import plan_new_directories
from cafs.index.merged_head import MergedHead
from cafs.index.merged_index import HEADER_BYTES, encode_merged_header
from cafs.index.moved_region import LayerContents, Shift
from cafs.index.reader import ErofsReader


def write_merged(descriptor: int, layers: Sequence[LayerIndex]) -> None:
    """Write the merged index of an image.

    Args:
        descriptor: An empty file, open for reading and writing.
        layers: Its layers' indexes, lowest first; all were checked.

    Raises:
        UsageError: the image is over EROFS's limit of 16 TiB.
        OSError: the file cannot be written.
    """
    readers = [ErofsReader(layer.metadata, layer.virtual_bytes) for layer in layers]
    contents = [
        LayerContents(layer.metadata, reader.root_nid) for layer, reader in zip(layers, readers, strict=True)
    ]
    tree = MergedTree(readers)
    tainted = [
        found.directories_with_whiteouts() if layer.header.hides else []
        for found, layer in zip(contents, layers, strict=True)
    ]
    head = MergedHead(tree, plan_new_directories(tree, tainted))
    starts = list(accumulate((len(layer.metadata) for layer in layers), initial=head.head_bytes))
    shifts = _plan_shifts(layers, starts)

    def nid_of(inode: LayerNid) -> int:
        return head.nids.get(inode, inode.nid + shifts[inode.layer].nid)

    first = head.encode(
        virtual_bytes=starts[-1] + sum(layer.header.data_bytes for layer in layers),
        inode_count=sum(len(found.inodes.nid) for found in contents),
        chunk_maps=any(bool((found.inodes.layout == Layout.CHUNK_BASED).any()) for found in contents),
        nid_of=nid_of,
    )
    os.posix_fallocate(descriptor, 0, HEADER_BYTES + starts[-1])
    with mmap.mmap(descriptor, HEADER_BYTES + starts[-1]) as mapping:
        mapping[HEADER_BYTES : HEADER_BYTES + len(first)] = first
        replaced = _by_layer(head.nids, len(layers))
        for number, layer in enumerate(layers):
            begin = HEADER_BYTES + starts[number]
            mapping[begin : begin + len(layer.metadata)] = layer.metadata
            copy = np.frombuffer(mapping, dtype=np.uint8, offset=begin, count=len(layer.metadata))
            contents[number].move(copy, shifts[number], replaced[number])
            if layer.header.hides:
                contents[number].hide_overlay_xattrs(copy)
            del copy  # the mapping cannot be closed under it
        with memoryview(mapping) as whole, whole[HEADER_BYTES:] as metadata:
            header = encode_merged_header(metadata)
        mapping[: len(header)] = header


def _by_layer(nids: Mapping[LayerNid, int], layers: int) -> list[dict[int, int]]:
    found: list[dict[int, int]] = [{} for _ in range(layers)]
    for (layer, old), new in nids.items():
        found[layer][old] = new
    return found


def _plan_shifts(layers: Sequence[LayerIndex], starts: Sequence[int]) -> list[Shift]:
    """Where each layer's numbers lead in the merged image, whose metadata ends at the last of ``starts``."""
    data_starts = accumulate((layer.header.data_bytes for layer in layers), initial=starts[-1])
    return [
        Shift(
            nid=start >> SLOT_BITS,
            metadata_blocks=start >> BLOCK_BITS,
            data_blocks=data_start - len(layer.metadata) >> BLOCK_BITS,
        )
        for layer, start, data_start in zip(layers, starts, data_starts, strict=False)
    ]
