"""How Python's collector is set in a scheduler: what the bench measures, and the program runs with."""

from __future__ import annotations

import gc


def collect_rarely() -> None:
    """Records die by their counts; a full collection would only stop everybody for a while."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
