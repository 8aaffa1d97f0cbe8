"""This manager among those on the same database: it says that it lives, and sees who does and who does not.

A row's ``beats`` counts up every few seconds. A replica whose count stands still for ``GONE_S``, by the clock
of whoever looks, is gone, and whoever sees it first removes its row. So no two clocks need agree.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from cafs import __version__
from cafs.errors import CafsError
from cafs.manager.database import Database
from cafs.manager.tables import Replica
from cafs.manager.tally import Tally

log = logging.getLogger(__name__)

BEAT_S = 3.0
GONE_S = 15.0


@dataclass
class Heartbeats:
    """What was seen of the others, and when. Pure."""

    gone_after_s: float = GONE_S
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

    def __init__(
        self, database: Database, tally: Tally, beat_s: float = BEAT_S, gone_after_s: float = GONE_S
    ) -> None:
        self.id = secrets.token_hex(16)
        self.alive = 1
        """Replicas, this one included, when last looked."""
        self._database = database
        self._tally = tally
        self._beat_s = beat_s
        self._others = Heartbeats(gone_after_s)
        self._beats = 0
        self._failing = False

    def join(self, address: str) -> None:
        """From now on it is one of them. In a thread."""
        with self._database.writing() as session:
            if self._database.is_sqlite:
                session.execute(delete(Replica))  # whoever had the file before has it no more
            session.add(Replica(id=self.id, address=address[:255], version=__version__, beats=0))
        self._address = address

    def leave(self) -> None:
        """And no more. In a thread."""
        with self._database.writing() as session:
            session.execute(delete(Replica).where(Replica.id == self.id))

    async def live(
        self, on_gone: Callable[[Session, list[str]], None], on_removed: Callable[[], None]
    ) -> None:
        """Beat until cancelled.

        Args:
            on_gone: Told in the same transaction, in a thread, which replicas are removed.
            on_removed: Others took this one for gone, and wrote that down.
        """
        while True:
            await asyncio.sleep(self._beat_s)
            try:
                known = await asyncio.to_thread(self._beat, on_gone)
            except CafsError as e:
                self._tally.database_failures += 1
                (log.debug if self._failing else log.warning)("no beat: %s", e)
                self._failing = True
                continue
            if self._failing:
                log.warning("the database answers again")
            self._failing = False
            if not known:
                log.warning("another replica took this one for gone")
                await asyncio.to_thread(self.join, self._address)
                on_removed()

    def _beat(self, on_gone: Callable[[Session, list[str]], None]) -> bool:
        self._beats += 1
        with self._database.writing() as session:
            mine = update(Replica).where(Replica.id == self.id).values(beats=self._beats)
            known = session.execute(mine.returning(Replica.id)).scalar() is not None
            others = {row.id: row.beats for row in session.scalars(select(Replica)) if row.id != self.id}
            gone = self._others.note(others, time.monotonic())
            if gone:
                log.info("replicas that are gone: %s", ", ".join(gone))
                session.execute(delete(Replica).where(Replica.id.in_(gone)))
                on_gone(session, gone)
        self.alive = 1 + len(others) - len(gone)
        return known
