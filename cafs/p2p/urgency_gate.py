"""Lets so many through at a time, the most urgent first; who waits may become more urgent meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Urgent:
    """Somebody's work, with an urgency that may rise (0 is the highest)."""

    def __init__(self, urgency: int) -> None:
        self.urgency = urgency

    def hasten(self, urgency: int) -> None:
        """Somebody more urgent waits for the same."""
        self.urgency = min(self.urgency, urgency)


class UrgencyGate:
    """At most ``places`` at a time, of which work that nobody waits for (3) leaves a quarter free."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside = 0
        self._waiting: list[tuple[Urgent, trio.Event]] = []

    @asynccontextmanager
    async def enter(self, work: Urgent) -> AsyncIterator[None]:
        """Wait for a place; inside it is held."""
        await trio.lowlevel.checkpoint()
        if self._waiting or not self._may_enter(work):
            await self._wait(work)
        else:
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._let_in()

    async def _wait(self, work: Urgent) -> None:
        turn = trio.Event()
        self._waiting.append((work, turn))
        self._let_in()
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._inside -= 1
                self._let_in()
            else:
                self._waiting.remove((work, turn))
            raise

    def _may_enter(self, work: Urgent) -> bool:
        kept_free = self._places // 4 if work.urgency else 0
        return self._inside < max(self._places - kept_free, 1)

    def _let_in(self) -> None:
        while self._waiting:
            first = min(self._waiting, key=lambda waiting: waiting[0].urgency)
            if not self._may_enter(first[0]):
                return
            self._waiting.remove(first)
            self._inside += 1
            first[1].set()
