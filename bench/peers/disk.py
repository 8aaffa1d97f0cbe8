"""A disk for all hosts of a swarm that takes what a disk for each would: memory. Needs root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.process import run


@contextmanager
def memory_disk(folder: Path) -> Iterator[Path]:
    """Make ``folder``, which lasts as long as the context, or as the last of those who use it."""
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "hosts", folder])
    try:
        yield folder
    finally:
        run(["umount", "--lazy", folder])
        folder.rmdir()
