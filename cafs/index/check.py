"""``check_index``: looks at every byte of a layer index that anybody will rely on.

Run once before an index that somebody else made is mounted: the kernel is not handed a filesystem
image that nobody checked, and the readers may trust what passed. Only numpy in bulk, so 100,000
inodes take a fraction of a second; time and memory are linear in the size of the file, whatever is in
it. It reads no chunk: whether their bytes are right is found out when they are read (or by
``cafs check``).
"""

from __future__ import annotations

from cafs.core.erofs import (
    BLOCK_BITS,
    BLOCK_BYTES,
    FEATURE_COMPAT_MTIME,
    FEATURE_INCOMPAT_CHUNKED_FILE,
    SUPERBLOCK,
    SUPERBLOCK_MAGIC,
    SUPERBLOCK_OFFSET,
)
from cafs.errors import IntegrityError
from cafs.index.check_table import check_chunk_table
from cafs.index.check_tree import check_tree
from cafs.index.layer_index import LayerIndex


def check_index(index: LayerIndex) -> None:
    """Check an opened index wholly.

    Raises:
        IntegrityError: saying exactly what is wrong, and where.
    """
    header = index.header
    if header.inode_count > header.metadata_bytes // 32:
        raise IntegrityError(f"{header.inode_count} inodes cannot lie in {header.metadata_bytes} bytes")
    root_nid, chunk_maps = _check_superblock(index)
    check_chunk_table(index.table.raw, header.metadata_bytes, header.virtual_bytes, index.blobs)
    hides = check_tree(
        index.metadata,
        header.virtual_bytes,
        root_nid=root_nid,
        inode_count=header.inode_count,
        chunk_maps=chunk_maps,
    )
    if hides and not header.hides:
        raise IntegrityError("the layer holds whiteouts or opaque directories, its header says it has none")


def _check_superblock(index: LayerIndex) -> tuple[int, bool]:
    """(nid of the root, whether chunk-based files are declared)."""
    raw = bytes(index.metadata[SUPERBLOCK_OFFSET : SUPERBLOCK_OFFSET + SUPERBLOCK.size])
    fields = SUPERBLOCK.unpack(raw)
    root_nid, inos, blocks, incompat = fields[5], fields[6], fields[9], fields[13]
    # Everything else has one possible value, so that a kernel newer than this code finds no feature
    # declared that was not looked at.
    expected = SUPERBLOCK.pack(
        SUPERBLOCK_MAGIC, 0, FEATURE_COMPAT_MTIME, BLOCK_BITS, 0, root_nid, inos, 0, 0,
        blocks, 0, 0, bytes(32), incompat & FEATURE_INCOMPAT_CHUNKED_FILE, bytes(44),
    )  # fmt: skip
    if raw != expected:
        raise IntegrityError("the EROFS superblock is not one that CAFS writes")
    if inos != index.header.inode_count or blocks != index.virtual_bytes // BLOCK_BYTES:
        raise IntegrityError(
            f"the EROFS superblock counts {inos} inodes and {blocks} blocks, the header "
            f"{index.header.inode_count} and {index.virtual_bytes // BLOCK_BYTES}"
        )
    return root_nid, bool(incompat)
