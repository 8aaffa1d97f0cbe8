"""Answers what peers wish to know of starts, and takes the starts that are wanted of them.

Belongs to the event loop's thread. Wishes and offers that come while the database is asked are answered
together by the next question to it; what comes beyond a bound is passed over, as is all that comes while the
database does not answer: nobody waits for it longer than a moment.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from cafs.errors import CafsError
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.profiles.catalogue import add_start, find_profiles
from cafs.manager.profiles.wanted import Learned, Wanted
from cafs.manager.services.attached import Attached
from cafs.manager.services.incoming import Report
from cafs.manager.tables import LearnedProfile
from cafs.manager.tally import Tally
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

_MOST_WAITING, _MOST_REPORTS = 20_000, 64
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class _Asked:
    """One wish, or one offer."""

    attached: Attached
    image: bytes
    held: bytes | None
    """None: an offer."""


class ProfileDesk:
    """See the module."""

    def __init__(self, database: Database, tally: Tally) -> None:
        self._database = database
        self._tally = tally
        self._wanted = Wanted()
        self._waiting: list[_Asked] = []
        self._reports: list[tuple[str, Report]] = []
        self._filled = asyncio.Event()

    def wish(self, attached: Attached, image: bytes, held: bytes) -> None:
        """Tell a peer what is learned of an image, soon."""
        self._note(_Asked(attached, image, held))

    def offer(self, attached: Attached, image: bytes) -> None:
        """Tell a peer, soon, if a start is wanted."""
        self._note(_Asked(attached, image, None))

    def report(self, attached: Attached, report: Report) -> None:
        """A start; passed over if it was not wanted."""
        host_id = attached.arrival.host_id
        if self._wanted.take(host_id, report.image, self._now()) and len(self._reports) < _MOST_REPORTS:
            self._reports.append((host_id, report))
            self._filled.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            waiting, self._waiting = self._waiting, []
            reports, self._reports = self._reports, []
            try:
                for host_id, report in reports:
                    await in_thread(partial(self._add, host_id, report))
                    self._tally.starts += 1
                await self._answer(waiting)
            except CafsError as e:
                log.info("peers are not answered what was learned of starts: %s", e)
            except Exception:
                log.exception("a mistake in what is learned of starts")

    def _note(self, asked: _Asked) -> None:
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(asked)
            self._filled.set()

    async def _answer(self, waiting: list[_Asked]) -> None:
        images = list(dict.fromkeys(asked.image for asked in waiting))
        for first in range(0, len(images), _IMAGES_AT_ONCE):
            part = images[first : first + _IMAGES_AT_ONCE]
            found = await in_thread(partial(self._find, [image.hex() for image in part]))
            for asked in waiting:
                if asked.image in part:
                    self._tell(asked, found.get(asked.image.hex()))

    def _tell(self, asked: _Asked, profile: LearnedProfile | None) -> None:
        if asked.held is None:
            known = Learned()
            if profile is not None:
                known = Learned(profile.starts, (datetime.now(UTC) - profile.learned_at).total_seconds())
            host_id = asked.attached.arrival.host_id
            if self._wanted.ask(host_id, asked.image, known, self._now()):
                wanted = manager_pb2.StartWanted(image=asked.image)
                asked.attached.tell(manager_pb2.ToService(start_wanted=wanted))
            return
        told = manager_pb2.LearnedProfile(image=asked.image, held=asked.held)
        if profile is not None and profile.etag == asked.held:
            told.unchanged = True
        elif profile is not None:
            told.profile = profile.document
        asked.attached.tell(manager_pb2.ToService(learned_profile=told))

    def _find(self, images: list[str]) -> dict[str, LearnedProfile]:
        with self._database.reading() as session:
            return find_profiles(session, images)

    def _add(self, host_id: str, report: Report) -> None:
        with self._database.writing() as session:
            add_start(
                session,
                report.image.hex(),
                host_id,
                name=report.name,
                frame_bytes=report.frame_bytes,
                start=report.start,
            )

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
