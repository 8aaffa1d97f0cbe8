"""The kernel's EROFS on a virtual image, and what it said in the kernel log."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cafs.index.layer_index import LayerIndex


def virtual_image(index_path: Path, data: bytes) -> bytes:
    """The whole virtual image as one piece."""
    with LayerIndex.open(index_path) as index:
        return bytes(index.metadata) + data


@contextmanager
def kernel_mount(image: Path) -> Iterator[bytes]:
    """Mount an image read-only; its mount point."""
    with tempfile.TemporaryDirectory(prefix="cafs-erofs-") as directory:
        subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro,nodev", image, directory], check=True)
        try:
            yield directory.encode()
        finally:
            subprocess.run(["umount", directory], check=True)


def kernel_complaints() -> list[str]:
    """Lines of the kernel log about EROFS, without the news of mounts, nor of what is none: others try that.

    Old lines leave the log at any time: what is new since is what was not there before.
    """
    log = subprocess.run(["dmesg"], capture_output=True, text=True, check=True, errors="replace").stdout
    lines = [line for line in log.splitlines() if "erofs" in line]
    news = ("mounted with root inode", "experimental", "cannot find valid erofs superblock")
    return [line for line in lines if not any(one in line for one in news)]
