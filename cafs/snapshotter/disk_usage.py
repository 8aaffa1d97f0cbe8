"""What a directory takes on the disk, counted as containerd does (continuity's fs.DiskUsage).

Blocks in units of 512 bytes, each inode once, directories and the top one too. Used by worker threads.
"""

from __future__ import annotations

import os
from pathlib import Path

from cafs.snapshotter.snapshot import Usage

_BLOCK_BYTES = 512


def disk_usage(top: Path) -> Usage:
    """Count ``top`` and all below, following no link.

    Raises:
        OSError: something cannot be read, or vanished meanwhile.
    """
    first = top.lstat()
    seen = {(first.st_dev, first.st_ino)}
    size = first.st_blocks * _BLOCK_BYTES
    pending = [os.fspath(top)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                known = entry.stat(follow_symlinks=False)
                identity = (known.st_dev, known.st_ino)
                if identity not in seen:
                    seen.add(identity)
                    size += known.st_blocks * _BLOCK_BYTES
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return Usage(size, len(seen))
