"""How chunks that nobody waits for are taken from other hosts: so that a reader's chunk finds the link free.

A link of 200 Mbit/s needs 40 ms for each megabyte that stands in front of a chunk, in the buffers of its
sender or in the queues between. What may stand there is decided by who takes: a sender sends no more than
the window that is open to it. So windows hold little more than the way itself does, and next to readers one
body is taken at a time (the others, with their first window here, wait), while one waits for another host
nothing is taken at all, and for a while after that less than the link carries (``LinkShare``), so that no
queue is there when the next chunk comes. Where nobody has read for a while several bodies are taken, as each
of their hosts may be busy with others: the first chunk of a reader who comes then waits for what all their
windows hold.

Nobody is kept from his chunks by somebody who hangs: all these waits are short.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from cafs.core.swarm.link_share import LinkShare

QUEUE_BYTES = 32 << 10
"""Less than 2 ms of such a link, and far more than what is on its way between two hosts on one switch."""
QUIET_S, WIDE_BYTES = 10.0, 256 << 10
"""Where nobody has read for so long this may queue: fewer parts, less of the processor."""
BODIES = 4
"""Taken at once where nobody reads."""
TURN_S = 0.5
"""Who has waited so long for the body before his takes his own beside it: its sender may hang."""
PAUSE_S = 0.05
"""A part for so long a wait: what readers wait for may come from a slow registry."""


class GivingWay:
    """A ``Pace`` for what nobody waits for."""

    def __init__(self) -> None:
        self._bodies = 0
        """Being taken in their turn."""
        self._turns = trio.lowlevel.ParkingLot()
        self._readers = 0
        self._no_readers = trio.Event()
        self._share = LinkShare()

    def note_read(self, count: int) -> None:
        """So many bytes came that somebody waits for, or soon may."""
        self._share.note_read(count, trio.current_time())

    def queue_bytes(self) -> int:
        """May queue beyond what the way holds, on connections that are asked now."""
        quiet = not self._readers and not self._share.is_read(trio.current_time(), QUIET_S)
        return WIDE_BYTES if quiet else QUEUE_BYTES

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Inside a reader waits."""
        if not self._readers:
            self._no_readers = trio.Event()
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            if not self._readers:
                self._no_readers.set()

    @asynccontextmanager
    async def body(self) -> AsyncIterator[None]:
        """See ``Pace``."""
        with trio.move_on_after(TURN_S) as waiting:
            await trio.lowlevel.checkpoint()
            while self._bodies >= self._most_bodies():
                await self._turns.park()
        in_turn = not waiting.cancelled_caught
        self._bodies += in_turn
        try:
            yield
        finally:
            self._bodies -= in_turn
            self._turns.unpark()

    def _most_bodies(self) -> int:
        reading = self._readers or self._share.is_read(trio.current_time())
        return 1 if reading else BODIES

    async def part(self, count: int) -> None:
        """See ``Pace``."""
        if not count or self._readers:
            self._share.note_gap()
        if rest_s := self._share.rest_s(count, trio.current_time()):
            await trio.sleep(rest_s)
        if self._readers:
            with trio.move_on_after(PAUSE_S):
                await self._no_readers.wait()
