"""Detecting sequential readers and how far to fetch ahead of them. Pure, and cheap: one dict lookup a read.

The kernel's own readahead reaches us as reads of up to 1 MiB; this goes further where a reader has shown
that it reads on, so that a link's latency is not paid for each of those. What is fetched ahead is never
more than half of what the stream has read already: a stream that ends wastes at most that much.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_STREAMS = 32
"""Streams remembered for one layer; the stalest is forgotten first."""
FIRST_BYTES = 256 << 10
"""A stream shorter than this is not followed: most files are small and end at once."""


@dataclass(slots=True)
class _Stream:
    read_bytes: int
    ahead_until: int


class ReadaheadDetector:
    """The streams of one layer, keyed by where each is expected to read next."""

    def __init__(self, max_window_bytes: int) -> None:
        self._max_window_bytes = max_window_bytes
        self._streams: dict[int, _Stream] = {}

    def note_read(self, offset: int, end: int) -> tuple[int, int] | None:
        """Take note of a read; returns the range (offset, end) to fetch ahead now, if any."""
        stream = self._streams.pop(offset, None)
        begins = stream is None
        if stream is None:
            stream = _Stream(0, end)
            if len(self._streams) >= MAX_STREAMS:
                del self._streams[next(iter(self._streams))]
        stream.read_bytes += end - offset
        self._streams[end] = stream
        if begins or stream.read_bytes < FIRST_BYTES:
            return None
        window = min(stream.read_bytes // 2, self._max_window_bytes)
        # Ask again only when half of the last window is used up: few, larger requests.
        if stream.ahead_until - end > window // 2:
            return None
        begin, stream.ahead_until = max(stream.ahead_until, end), end + window
        return begin, stream.ahead_until
