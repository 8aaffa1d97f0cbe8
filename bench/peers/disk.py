"""A disk for all hosts of a swarm that takes what a disk for each would: memory. Needs root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from demo.process import run

_PIECE_BYTES = 1 << 20
_REPORTING = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_NONE_IS_SO_LARGE = "11"


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
        with _memory_is_kept():
            _touch(folder / "touched", expected_bytes)
            yield folder
    finally:
        run(["umount", "--lazy", folder])
        folder.rmdir()


@contextmanager
def _memory_is_kept() -> Iterator[None]:
    """What is freed is not given back to the host of a virtual machine (the kernel's free page reporting)."""
    before = _REPORTING.read_text() if _REPORTING.exists() else None
    if before is not None:
        _REPORTING.write_text(_NONE_IS_SO_LARGE)
    try:
        yield
    finally:
        if before is not None:
            with suppress(OSError):
                _REPORTING.write_text(before)


def _touch(path: Path, count: int) -> None:
    with path.open("wb") as file:
        for _ in range(0, count, _PIECE_BYTES):
            file.write(bytes(_PIECE_BYTES))
    path.unlink()
