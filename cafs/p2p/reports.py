"""Tells the scheduler of pieces that are here, with all that came since it was told last."""

from __future__ import annotations

import trio

from cafs.core.swarm.messages import FinishedPiece
from cafs.p2p.swarm_session import Session

SOURCE_EVERY_S = 0.02
"""Others wait for the digests of what came from the source."""
EVERY_S = 0.2


class Reports:
    """Of one download."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._news: list[FinishedPiece] = []
        self._urgent = trio.Event()
        self._some = trio.Event()

    def add(self, piece: FinishedPiece) -> None:
        """It is here, verified and kept."""
        self._news.append(piece)
        self._some.set()
        if piece.parent is None:
            self._urgent.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._some.wait()
            with trio.move_on_after(EVERY_S):
                await self._urgent.wait()
                await trio.sleep(SOURCE_EVERY_S)
            self.flush()

    def flush(self) -> None:
        """Tell all now."""
        news, self._news = self._news, []
        self._some, self._urgent = trio.Event(), trio.Event()
        if news:
            self._session.tell_pieces(news)
