"""Keeps the memory of a virtual machine with it while something is measured that uses much of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_REPORTING = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_NONE_IS_SO_LARGE = "11"


@contextmanager
def memory_is_kept() -> Iterator[None]:
    """What is freed is not given back to the host of a virtual machine (the kernel's free page reporting).

    It would be handed out again page by page, at a millisecond a MiB, when the page cache fills.
    """
    before = _REPORTING.read_text() if _REPORTING.exists() else None
    if before is not None:
        _REPORTING.write_text(_NONE_IS_SO_LARGE)
    try:
        yield
    finally:
        if before is not None:
            with suppress(OSError):
                _REPORTING.write_text(before)
