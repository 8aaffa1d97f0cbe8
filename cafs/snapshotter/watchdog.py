"""Tells systemd's watchdog that the snapshotter answers. Owned by ``program``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cafs.snapshotter.workers import Workers

PAUSE_S = 10.0
"""A sixth of the unit's WatchdogSec."""


async def feed_watchdog(workers: Workers, tell: Callable[[str], None], *, pause_s: float = PAUSE_S) -> None:
    """As long as the loop turns, the database is read and changes are carried out, systemd hears of it.

    While one of the two threads hangs, most calls do, too: then nothing is said, and it starts us anew.
    """
    while True:
        await workers.reader(_nothing)
        await workers.ledger(_nothing)
        tell("WATCHDOG=1")
        await asyncio.sleep(pause_s)


def _nothing() -> None:
    """Takes its turn."""
