"""A disk for all hosts of a swarm that takes what a disk for each would: memory. Needs root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.kept_memory import memory_is_kept
from demo.process import run

_PIECE_BYTES = 1 << 20


@contextmanager
def memory_disk(folder: Path, expected_bytes: int) -> Iterator[Path]:
    """Make ``folder``, which lasts as long as the context, or as the last of those who use it.

    Args:
        folder: Where.
        expected_bytes: So much will be written. As much memory is touched before, and kept: a virtual machine
            may be given its memory page by page, at a millisecond a MiB, which no disk would cost.
    """
    folder.mkdir()
    run(["mount", "-t", "tmpfs", "hosts", folder])
    try:
        with memory_is_kept():
            _touch(folder / "touched", expected_bytes)
            yield folder
    finally:
        run(["umount", "--lazy", folder])
        folder.rmdir()


def _touch(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for _ in range(0, count, _PIECE_BYTES):
            file.write(bytes(_PIECE_BYTES))
    path.unlink()
