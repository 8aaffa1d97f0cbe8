"""This manager among those on the same database: it says that it lives, and sees who does and who does not.

A row's ``beats`` counts up every few seconds. A replica whose count stands still for ``gone_after_s``, by the
clock of whoever looks, is gone, and whoever sees it first removes its row, and writes down that its hosts
are not here any more. So no two clocks need agree.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import delete, select, update

from cafs import __version__
from cafs.errors import UnavailableError
from cafs.manager.clusters.hosts import all_gone
from cafs.manager.database import Database, words_of
from cafs.manager.in_thread import in_thread
from cafs.manager.tables import Replica
from cafs.manager.tally import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often who says that he lives, and how long silence is believed to be none."""

    beat_s: float = 3.0
    """Of replicas."""
    gone_after_s: float = 15.0
    alive_every_s: float = 20.0
    """Of services; after three times as long they are inactive."""
    gather_s: float = 2.0
    """Reports of services are gathered for so long, and then written."""
    report_every_s: float = 5.0
    """And wanted so often, unless there are many."""


@dataclass
class Heartbeats:
    """What was seen of the others, and when. Pure."""

    gone_after_s: float
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)

    def note(self, beats: dict[str, int], now: float) -> list[str]:
        """Those that are gone, by what they count now."""
        before, self._seen = self._seen, {}
        for name, count in beats.items():
            known = before.get(name)
            self._seen[name] = known if known is not None and known[0] == count else (count, now)
        return [name for name, (_, since) in self._seen.items() if now - since > self.gone_after_s]


class ThisReplica:
    """See the module."""

    def __init__(self, database: Database, tally: Tally, pace: Pace) -> None:
        self.id = secrets.token_hex(16)
        self.alive = 1
        """Replicas, this one included, when last looked."""
        self._database = database
        self._tally = tally
        self._beat_s = pace.beat_s
        self._others = Heartbeats(pace.gone_after_s)
        self._beats = 0
        self._failing = False

    def join(self, address: str) -> None:
        """From now on it is one of them. In a thread."""
        with self._database.writing() as session:
            if self._database.is_sqlite:
                session.execute(delete(Replica))  # whoever had the file before has it no more
                all_gone(session, None)
            session.add(Replica(id=self.id, address=address[:255], version=__version__, beats=0))
        self._address = address

    def leave(self) -> None:
        """And no more. In a thread."""
        with self._database.writing() as session:
            session.execute(delete(Replica).where(Replica.id == self.id))
            all_gone(session, [self.id])

    async def live(self, on_removed: Callable[[], None]) -> None:
        """Beat until cancelled.

        Args:
            on_removed: Others took this one for gone, and wrote down that its hosts are.
        """
        while True:
            await asyncio.sleep(self._beat_s)
            try:
                if not await in_thread(self._beat):
                    log.warning("another replica took this one for gone")
                    await in_thread(partial(self.join, self._address))
                    on_removed()
            except UnavailableError as e:
                self._tally.database_failures += 1
                (log.debug if self._failing else log.warning)("no beat: %s: %s", e, words_of(e))
                self._failing = True
                continue
            except Exception:  # the beats that are to come must not end with this one
                log.exception("a mistake in a beat")
                continue
            if self._failing:
                log.warning("the database answers again")
            self._failing = False

    def _beat(self) -> bool:
        self._beats += 1
        with self._database.writing() as session:
            mine = update(Replica).where(Replica.id == self.id).values(beats=self._beats)
            known = session.execute(mine.returning(Replica.id)).scalar() is not None
            others = {row.id: row.beats for row in session.scalars(select(Replica)) if row.id != self.id}
            gone = self._others.note(others, time.monotonic())
            if gone:
                log.info("replicas that are gone: %s", ", ".join(gone))
                session.execute(delete(Replica).where(Replica.id.in_(gone)))
                all_gone(session, gone)
        self.alive = 1 + len(others) - len(gone)
        return known
