"""Python's collector as the scheduler's program has it, for as long as something is measured or simulated."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from cafs.daemon.garbage import collect_rarely


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """And afterwards as it was."""
    thresholds = gc.get_threshold()
    gc.collect()
    collect_rarely()
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
