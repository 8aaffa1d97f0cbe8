"""CONNECT: bytes in both directions, unopened (trio).

Ends when both sides have ended, when one breaks, or when nothing moved in either direction for a while.
Buffers hold one read for each direction, so a slow side slows the other.
"""

from __future__ import annotations

import trio

_READ_BYTES = 64 << 10
IDLE_S = 600.0
"""Some protocols behind CONNECT are silent for minutes."""
_HALF_OPEN_S = 60.0
"""Once one side has ended, the other gets so long for what it still says."""


async def splice(ours: trio.abc.Stream, theirs: trio.abc.HalfCloseableStream, idle_s: float = IDLE_S) -> None:
    """Carry bytes until it ends; both streams stay open for their owners to close."""
    with trio.CancelScope() as scope:
        carrier = _Carrier(scope, idle_s)
        carrier.note_life()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(carrier.carry, ours, theirs)
            nursery.start_soon(carrier.carry, theirs, ours)


class _Carrier:
    def __init__(self, scope: trio.CancelScope, idle_s: float) -> None:
        self._scope = scope
        self._idle_s = idle_s
        self._ended = 0

    def note_life(self) -> None:
        """Something moved."""
        allowed_s = min(self._idle_s, _HALF_OPEN_S) if self._ended else self._idle_s
        self._scope.deadline = trio.current_time() + allowed_s

    async def carry(self, source: trio.abc.Stream, target: trio.abc.Stream) -> None:
        """One direction, up to its end."""
        try:
            while data := await source.receive_some(_READ_BYTES):
                self.note_life()
                await target.send_all(data)
                self.note_life()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._scope.cancel()
            return
        self._ended += 1
        if self._ended == 2:
            return
        self.note_life()
        if isinstance(target, trio.abc.HalfCloseableStream):
            try:
                await target.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._scope.cancel()
        else:
            self._scope.cancel()
