"""Lets so many through at a time, the most urgent first; who waits may become more urgent meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cafs.core.swarm.chunk_request import LEAST_URGENT

_LEAST_SHARE = 2
"""One is answered while the other is on its way."""


class Urgent:
    """Somebody's work, with an urgency that may rise (0 is the highest)."""

    def __init__(self, urgency: int) -> None:
        self.urgency = urgency

    def hasten(self, urgency: int) -> None:
        """Somebody more urgent waits for the same."""
        self.urgency = min(self.urgency, urgency)


class UrgencyGate:
    """At most ``places`` at a time, of which work that is not the most urgent leaves a quarter free."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside = 0
        self._waiting: list[tuple[Urgent, int, trio.Event]] = []

    @asynccontextmanager
    async def enter(self, work: Urgent, sharers: int = 1) -> AsyncIterator[None]:
        """Wait for a place; inside it is held.

        Args:
            work: What for.
            sharers: So many hosts have such work with the same server at once, with a gate of their own each.
                What nobody waits for takes its part of the places only, or two.
        """
        await trio.lowlevel.checkpoint()
        if self._waiting or not self._may_enter(work, sharers):
            await self._wait(work, sharers)
        else:
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._let_in()

    async def _wait(self, work: Urgent, sharers: int) -> None:
        turn = trio.Event()
        self._waiting.append((work, sharers, turn))
        self._let_in()
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._inside -= 1
                self._let_in()
            else:
                self._waiting.remove((work, sharers, turn))
            raise

    def _may_enter(self, work: Urgent, sharers: int) -> bool:
        most = self._places - (self._places // 4 if work.urgency else 0)
        if work.urgency == LEAST_URGENT:
            most = min(most, max(most // sharers, _LEAST_SHARE))
        return self._inside < max(most, 1)

    def _let_in(self) -> None:
        while self._waiting:
            first = min(self._waiting, key=lambda waiting: waiting[0].urgency)
            work, sharers, turn = first
            if not self._may_enter(work, sharers):
                return
            self._waiting.remove(first)
            self._inside += 1
            turn.set()
