"""Riders: chunks fetched along with those that a reader waits for, because they lie right behind them.

A cold start reads here and there, one read after the other, and pays the link's and the registry's latency
for each. What lies behind a missing chunk is often wanted next (the same package, the same directory), and
costs little in a request that is made anyway. Traced over a start of Python with numpy (731 chunks, 17 MB),
four riders saved 28% of the requests for 21% more bytes.

The account keeps what was fetched ahead in vain below a share of what was read, whatever the readers do, and
riders below a share of those that were worth it. Both shares grow with the distance of the source
(``cafs.core.distance``): where a request takes as long as some hundred KiB, these are a small price for the
next one.
"""

from __future__ import annotations

from collections.abc import Callable

from cafs.core.chunk import ChunkRef
from cafs.fetch.reader import LayerReader

MOST_ROWS = 4
UNUSED_SHARE = 0.45
"""Of the compressed bytes read. With programs fetched whole, a start of Python with numpy took 6% less time
with this than with 0.35, for 1.37 instead of 1.33 times the bytes read."""
MOST_UNUSED_SHARE = 0.9
"""From however far away: the link may be shared."""
FIRST_BYTES = 128 << 10
"""Allowed before any rider was read."""
GAIN_SHARE = 0.6
"""Of the riders that were read so far. They are a guess, and some starts prove it wrong: of a shell's, which
runs one program after the other, two thirds were for nothing, of Node's a quarter."""
PROGRAM_BYTES = 6 << 20
"""Allowed for programs before anything was read: an entry point with its libraries."""
_AHEAD, _RIDER = 1, 2


class AheadAccount:
    """What was fetched before a reader asked for it, over all layers, and not read so far."""

    def __init__(self) -> None:
        self._unused_bytes = 0
        self._touched_bytes = 0
        self._riders_unused_bytes = 0
        self._riders_used_bytes = 0

    def allowance_bytes(self, distance: float = 1.0) -> int:
        """So much more may be fetched along with readers' requests to a source so far away."""
        first = FIRST_BYTES * distance
        room = int(first + _unused_share(distance) * self._touched_bytes) - self._unused_bytes
        gained = int(first + GAIN_SHARE * distance * self._riders_used_bytes) - self._riders_unused_bytes
        return min(room, gained)

    def program_allowance_bytes(self, distance: float = 1.0) -> int:
        """So much more may be fetched of programs that were begun."""
        return int(PROGRAM_BYTES + _unused_share(distance) * self._touched_bytes) - self._unused_bytes

    def note_ahead(self, layer: LayerReader, row: int, ref: ChunkRef, *, rides: bool = False) -> None:
        """The row is fetched and nobody waits for it."""
        if not layer.ahead[row]:
            layer.ahead[row] = _RIDER if rides else _AHEAD
            self._unused_bytes += ref.frame_bytes
            self._riders_unused_bytes += ref.frame_bytes * rides

    def note_touched(self, layer: LayerReader, row: int, ref: ChunkRef) -> None:
        """The row is read for the first time."""
        self._touched_bytes += ref.frame_bytes
        if layer.ahead[row]:
            self._unused_bytes -= ref.frame_bytes
        if layer.ahead[row] == _RIDER:
            self._riders_unused_bytes -= ref.frame_bytes
            self._riders_used_bytes += ref.frame_bytes
        layer.ahead[row] = _AHEAD  # it cannot be ahead of its readers any more

    def forget(self, layer: LayerReader) -> None:
        """The layer is gone: nobody will read what was fetched ahead of it."""
        for row, (ahead, touched) in enumerate(zip(layer.ahead, layer.touched, strict=True)):
            if ahead and not touched:
                frame_bytes = layer.ref(row).frame_bytes
                self._unused_bytes -= frame_bytes
                self._riders_unused_bytes -= frame_bytes * (ahead == _RIDER)


def _unused_share(distance: float) -> float:
    return min(UNUSED_SHARE * distance, MOST_UNUSED_SHARE)


def find_riders(
    layer: LayerReader, row: int, *, most: int, room_bytes: int, is_near: Callable[[bytes], bool]
) -> list[tuple[int, ChunkRef]]:
    """The rows that may travel along with ``row``: those behind it, up to one that is here already.

    Args:
        layer: Theirs.
        row: The last one that the reader waits for.
        most: So many rows at most.
        room_bytes: So many compressed bytes at most.
        is_near: Is this chunk in memory or on its way?
    """
    found: list[tuple[int, ChunkRef]] = []
    blob = layer.ref(row).blob
    for behind in range(row + 1, min(row + 1 + most, len(layer.table))):
        ref = layer.ref(behind)
        room_bytes -= ref.frame_bytes
        if room_bytes < 0 or layer.local[behind] or ref.blob != blob or is_near(ref.digest):
            break
        found.append((behind, ref))
    return found
