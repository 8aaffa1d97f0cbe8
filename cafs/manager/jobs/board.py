"""What hosts are to do now, and what they say of it: a replica's view of all parts that are told.

Belongs to the event loop's thread. What is told is read from the database anew whenever jobs change; what
hosts say is written in batches, the last word of each. What cannot be written while the database is away is
written later; a word that no database takes is dropped, and keeps none of the others. One that is lost with
the replica is said again by the host, who is told again by another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from functools import partial

from sqlalchemy import select

from cafs.errors import UnavailableError
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.jobs.ledger import note_jobs, write_report
from cafs.manager.jobs.orders import MOST_ORDERS, Order
from cafs.manager.jobs.states import CONVERT, JobState, PartState, Progress, Report
from cafs.manager.tables import Job, JobTarget

log = logging.getLogger(__name__)

_WRITE_EVERY_S, _AGAIN_S = 1.0, 2.0
_Words = dict[tuple[int, str], Report]
"""By job and host."""


class Board:
    """See the module."""

    def __init__(self, database: Database, on_news: Callable[[Collection[str]], None]) -> None:
        """``on_news``: hosts whose orders are others now."""
        self._database = database
        self._on_news = on_news
        self._orders: dict[str, tuple[Order, ...]] = {}
        self._words: _Words = {}
        self._ended = asyncio.Event()

    def orders_of(self, host_id: str) -> tuple[Order, ...]:
        """All that a host is to do."""
        return self._orders.get(host_id, ())

    async def load(self) -> None:
        """See what is told now.

        Raises:
            UnavailableError: the database does not answer.
        """
        before, self._orders = self._orders, await in_thread(self._read)
        changed = [
            host_id
            for host_id in {*before, *self._orders}
            if before.get(host_id) != self._orders.get(host_id)
        ]
        self._on_news(changed)

    def _read(self) -> dict[str, tuple[Order, ...]]:
        query = (
            select(JobTarget.host_id, Job.id, JobTarget.attempt, Job.kind, Job.spec)
            .join(Job, Job.id == JobTarget.job_id)
            .where(JobTarget.state == PartState.TOLD, Job.state == JobState.RUNNING, Job.kind != CONVERT)
            .order_by(Job.id)
        )
        found: dict[str, list[Order]] = {}
        with self._database.reading() as session:
            for host_id, *order in session.execute(query):
                found.setdefault(host_id, []).append(Order(*order))
        return {host_id: tuple(orders[:MOST_ORDERS]) for host_id, orders in found.items()}

    def note(self, host_id: str, job_id: int, report: Report) -> None:
        """A host says how far it is; of what it is not told, nothing is believed."""
        known = (job_id, report.attempt)
        if known not in [(order.job_id, order.attempt) for order in self.orders_of(host_id)]:
            return
        self._words[job_id, host_id] = report
        if report.progress is not Progress.DOING:
            self._ended.set()

    async def run(self, on_ended: Callable[[], None]) -> None:
        """Write what hosts say, until cancelled.

        Args:
            on_ended: Some have done their parts.
        """
        while True:
            try:
                async with asyncio.timeout(_WRITE_EVERY_S):
                    await self._ended.wait()
            except TimeoutError:
                pass
            self._ended.clear()
            if not await self.flush(on_ended):
                await asyncio.sleep(_AGAIN_S)
                self._ended.set()

    async def flush(self, on_ended: Callable[[], None] = lambda: None) -> bool:
        """Write what there is; False: it could not be written, and is kept."""
        words, self._words = self._words, {}
        if not words:
            return True
        try:
            ended = await in_thread(partial(self._write_all, words))
        except UnavailableError:
            self._words = {**words, **self._words}
            return False
        if ended:
            on_ended()
        return True

    def _write_all(self, words: _Words) -> bool:
        try:
            return self._write(words)
        except UnavailableError:
            raise
        except Exception:  # whichever of them it is about, the others are to be written
            log.exception("a mistake in what is written of jobs: each word is written by itself")
        ended = [self._write_alone(key, word) for key, word in words.items()]
        return any(ended)

    def _write_alone(self, key: tuple[int, str], word: Report) -> bool:
        try:
            return self._write({key: word})
        except UnavailableError:
            raise
        except Exception:  # it would be the same the next time
            log.exception("job %d: what host %s says is not written", *key)
            return False

    def _write(self, words: _Words) -> bool:
        with self._database.writing() as session:
            # In the order that everybody takes them in, so that nobody waits for another who waits for him.
            jobs_query = select(Job).where(Job.id.in_({job_id for job_id, _ in words})).order_by(Job.id)
            jobs = {job.id: job for job in session.scalars(jobs_query.with_for_update())}
            ended = False
            for (job_id, host_id), report in sorted(words.items(), key=lambda word: word[0]):
                target = session.get(JobTarget, (job_id, host_id)) if job_id in jobs else None
                if target is not None:
                    ended |= write_report(session, target, report, jobs[job_id].retries)
            if ended:
                note_jobs(session)
            return ended
