"""One module per row of what CAFS promises. The table below is the order in which they run."""

from __future__ import annotations

CASES = {
    "convert_large": "convert of a layer of more than 1 GB, against zstd and mkfs.erofs; memory",
    "convert_small": "convert of 100,000 small files; size of the index",
    "compressed_size": "a converted image against its gzip layers",
    "second_version": "a second version of an image, --chunk-dict",
    "mount_ready": "mount of 100,000 files until ls -R may begin; memory of the server",
    "erofs_warm": "driver erofs, page cache warm, against kernel EROFS",
    "erofs_cold": "driver erofs, page cache cold, against kernel EROFS",
    "fuse_driver": "driver fuse against squashfuse and squashfuse_ll",
    "chunk_store": "the chunk store: put, get warm and cold, against decoding alone and plain files",
    "lazy_start": "start of a Python program over 200 Mbit/s, against pull, unpack, run",
}
"""Name of the module -> one line for ``--help``."""
