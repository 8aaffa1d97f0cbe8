"""Sees that clusters, or jobs, were changed: at once when this replica did it, soon when another one did."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from cafs.errors import CafsError
from cafs.manager.clusters.catalogue import count_changes
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread

log = logging.getLogger(__name__)

LOOK_S = 0.5


class Watch:
    """Of the number that counts changes."""

    def __init__(
        self,
        database: Database,
        on_change: Callable[[], Awaitable[None]],
        of: str = "changes",
        at_least_every_s: float = math.inf,
    ) -> None:
        """
        Args:
            database: Where the number is.
            on_change: May raise ``CafsError``, and is then called again.
            of: The number's name.
            at_least_every_s: How long without a change before it is taken for one.
        """
        self._database = database
        self._on_change = on_change
        self._of = of
        self._at_least_every_s = at_least_every_s
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._seen = -1
        self._acted_at = -math.inf

    def wake(self) -> None:
        """Something was changed here. From any thread."""
        self._loop.call_soon_threadsafe(self._woken.set)

    async def look(self) -> None:
        """See whether there is a change, and act on it.

        Raises:
            UnavailableError: the database does not answer.
        """
        count, now = await in_thread(self._count), self._loop.time()
        if count != self._seen or now - self._acted_at >= self._at_least_every_s:
            await self._on_change()
            self._seen, self._acted_at = count, now

    def _count(self) -> int:
        with self._database.reading() as session:
            return count_changes(session, self._of)

    async def run(self) -> None:
        """Look every half second, and when woken, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()
            try:
                await self.look()
            except CafsError as e:
                log.debug("changes are not seen: %s", e)
            except Exception:  # a mistake costs this look, and not all that are to come
                log.exception("a mistake at what was changed")
