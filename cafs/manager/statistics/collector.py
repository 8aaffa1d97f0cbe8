"""Takes in what services report, and writes it in batches: one transaction every two seconds at most.

Belongs to the event loop's thread. A report is answered once it is written. What cannot be written is
dropped: it is said again by whoever said it. So nothing waits here but one batch, with one report of a host
at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from random import Random

from cafs.core.statistics.amounts import AMOUNTS
from cafs.errors import CafsError
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.replica import Pace
from cafs.manager.statistics.rows import Arrived
from cafs.manager.statistics.tidying import tidy
from cafs.manager.statistics.writing import write_reports
from cafs.manager.tally import Tally

log = logging.getLogger(__name__)

_TIDY_S = 60.0
REPORTS_PER_S = 250
"""That one replica wants: of more hosts each says less often."""
_SPREAD = 0.9, 1.1
"""Those who are answered together are not to report together again."""
_ANSWERS_AT_ONCE = 16
"""Each costs the loop a fraction of a millisecond; between these, others get their turn."""

Answer = Callable[[float], None]
"""Tells who reported that it is counted, and after how many seconds the next report is wanted."""


class Collector:
    """See the module."""

    def __init__(self, database: Database, tally: Tally, hosts: Callable[[], int], pace: Pace) -> None:
        """``hosts``: how many services there are."""
        self._database = database
        self._tally = tally
        self._hosts = hosts
        self._pace = pace
        self._batch: dict[str, tuple[Arrived, Answer]] = {}
        self._filled = asyncio.Event()
        self._random = Random()  # noqa: S311 - spreads reports, guards nothing

    def take(self, arrived: Arrived, answer: Answer) -> None:
        """A report came."""
        self._batch[arrived.host_id] = arrived, answer
        self._filled.set()

    async def run(self) -> None:
        """Write, until cancelled; what is left then is the caller's: ``flush``."""
        while True:
            await self._filled.wait()
            await asyncio.sleep(self._pace.gather_s)
            self._filled.clear()
            await self.flush()

    async def tidy(self) -> None:
        """Look at levels, and forget what is old, every minute, until cancelled."""
        while True:
            await asyncio.sleep(_TIDY_S - time.time() % _TIDY_S)
            try:
                await in_thread(partial(tidy, self._database, int(time.time())))
            except CafsError as e:
                log.info("statistics are not tidied up: %s", e)
            except Exception:
                log.exception("a mistake in tidying up statistics")

    async def flush(self) -> None:
        """Write what there is."""
        batch, self._batch = self._batch, {}
        if not batch:
            return
        try:
            new = await in_thread(partial(self._write, [arrived for arrived, _ in batch.values()]))
        except Exception as e:
            if not isinstance(e, CafsError):
                log.exception("a mistake in what is written of reports")
            self._tally.reports_dropped += len(batch)
            return
        for arrived in new:
            self._tally.note_report(arrived.cluster_id, dict(zip(AMOUNTS, arrived.told.all, strict=True)))
        next_in_s = max(self._pace.report_every_s, self._hosts() / REPORTS_PER_S)
        for number, (_, answer) in enumerate(batch.values(), 1):
            answer(next_in_s * self._random.uniform(*_SPREAD))
            if not number % _ANSWERS_AT_ONCE:
                await asyncio.sleep(0)

    def _write(self, reports: list[Arrived]) -> list[Arrived]:
        with self._database.writing() as session:
            return write_reports(session, reports, int(time.time()))
