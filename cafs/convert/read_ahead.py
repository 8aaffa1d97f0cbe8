"""Hands a layer's plain bytes from the thread that reads, decompresses and hashes to the one that builds.

Without it one thread would do all that a conversion cannot do side by side, and compression would wait
for it. Bounded: the reading thread stays a few pieces ahead. Used by ``cafs.convert.layer``, which calls
``run`` on one thread, iterates on another, and calls ``close`` in any case.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Self

import trio

from cafs.convert.plain_stream import HashedPieces

_PIECES_AHEAD = 6


class ReadAhead:
    """The pieces of a ``HashedPieces``, and its digest at their end, on another thread."""

    def __init__(self, source: HashedPieces) -> None:
        self._source = source
        self._changed = threading.Condition()
        self._pieces: deque[bytes] = deque()
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._digest: bytes | None = None

    def run(self) -> None:
        """Read all of it. An error of the source is raised to the other side, in the order of the bytes."""
        try:
            for piece in self._source:
                if not self._put(piece):
                    return
            self._digest = self._source.digest()
        except Exception as e:
            self._error = e
        finally:  # also when this thread was cancelled: then there is neither digest nor error
            with self._changed:
                self._ended = True
                self._changed.notify()

    def close(self) -> None:
        """Nothing more is wanted; ``run`` ends."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._changed:
            while not self._pieces and not self._ended:
                self._changed.wait()
            if self._pieces:
                piece = self._pieces.popleft()
                self._changed.notify()
                return piece
        if self._error is not None:
            raise self._error
        if self._digest is None:
            # The reading thread was cancelled, and so is this one, now or in a moment. To end the stream
            # here would have somebody complain of a truncated layer.
            trio.from_thread.run(trio.sleep_forever)
        raise StopIteration

    def digest(self) -> bytes:
        """See ``HashedPieces``."""
        assert self._digest is not None, "asked before the end"
        return self._digest

    def _put(self, piece: bytes) -> bool:
        with self._changed:
            while len(self._pieces) >= _PIECES_AHEAD and not self._closed:
                self._changed.wait()
            self._pieces.append(piece)
            self._changed.notify()
            return not self._closed
