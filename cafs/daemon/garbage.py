"""How Python's garbage collector is set in scheduler and manager: what benches measure, and they run with."""

from __future__ import annotations

import asyncio
import gc

_EVERY_S = 3600.0


def collect_rarely() -> None:
    """Records die by their counts; a full collection would only stop everybody for a while."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)


async def collect_hourly() -> None:
    """All that is left in circles, until cancelled. It stops everybody for half a second."""
    while True:
        await asyncio.sleep(_EVERY_S)
        gc.collect()
