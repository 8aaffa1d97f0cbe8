"""systemd hears of the snapshotter while it can answer, and no longer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from cafs.snapshotter.watchdog import feed_watchdog
from cafs.snapshotter.workers import Workers

MANY = 50
"""Turns of the loop, in each of which it could have been fed once."""


class Fed:
    """Counts what systemd hears."""

    def __init__(self) -> None:
        self.count = 0
        self._heard = asyncio.Event()

    def tell(self, line: str) -> None:
        assert line == "WATCHDOG=1"
        self.count += 1
        self._heard.set()

    async def more(self) -> None:
        """Until it has been fed once more; a test that waits in vain runs into its own timeout."""
        self._heard.clear()
        await self._heard.wait()


@pytest.mark.parametrize("stuck", ["reader", "ledger"])
def test_it_is_not_fed_while_a_thread_hangs(stuck: str) -> None:
    async def scenario() -> None:
        workers, fed, hangs, go_on = Workers(), Fed(), threading.Event(), threading.Event()

        def hang() -> None:
            hangs.set()
            assert go_on.wait(60)

        pools: dict[str, Callable[..., Awaitable[None]]] = {
            "reader": workers.reader,
            "ledger": workers.ledger,
        }
        feeding = asyncio.create_task(feed_watchdog(workers, fed.tell, pause_s=0))
        hanging = None
        try:
            await fed.more()
            await fed.more()
            hanging = asyncio.ensure_future(pools[stuck](hang))
            await workers.files(hangs.wait, 60)
            before = fed.count
            for _turn in range(MANY):
                await workers.files(lambda: None)
            # One turn may have been in that thread before it hung.
            assert fed.count <= before + 1
            go_on.set()
            await fed.more()
            await fed.more()
        finally:
            go_on.set()
            feeding.cancel()
            with suppress(asyncio.CancelledError):
                await feeding
            if hanging is not None:
                await hanging
            workers.close()

    asyncio.run(scenario())
