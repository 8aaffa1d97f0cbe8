"""What one download reads from the origin: runs of pieces by ranges, or all of it as it comes.

The first answer says what the content is like. An origin that knows no ranges, or not how long the content
is, is read from its beginning, once, and what is here already is passed over. All answers must be about the
same content: see ``Guard``.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from cafs.core.swarm.freshness import dated, origin_said_at
from cafs.core.swarm.layout import MIN_PIECE_BYTES, Bitmap, Layout, piece_bytes_for
from cafs.core.swarm.task import TaskMeta, replayed
from cafs.errors import CafsError, ProtocolError, RemoteError
from cafs.p2p.content import Headers, NotSharedError, OriginError
from cafs.p2p.sharing import check_shared
from cafs.p2p.source import ChangedError, ForbiddenAddressError, Guard, SourceAnswer, Sources
from cafs.p2p.stored_task import StoredTask

_NO_SUCH_RANGE = 416

Keep = Callable[[int, bytes | bytearray], Awaitable[None]]
Spend = Callable[[int], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a content comes from, with what it takes to get in; known to this host only."""

    url: str
    headers: Headers = ()
    of_others: bool = False
    """Another host named it, or a manager: see ``Sources.open``."""


class SourceRuns:
    """See the module."""

    def __init__(
        self,
        sources: Sources,
        task: StoredTask,
        origin: Origin,
        *,
        tell_meta: Callable[[TaskMeta], None],
        keep: Keep,
        reads: Callable[[], None],
        spend: Spend,
    ) -> None:
        """
        Args:
            sources: The way to origins.
            task: What is read.
            origin: From where; the newest wish's credentials are used (``use``).
            tell_meta: Called with what the origin says of the content, before its pieces.
            keep: Called with each piece, in the order in which they come.
            spend: Called with the number of bytes that came; returns when more may come.
            reads: Called when ``reading`` has changed.
        """
        self._sources = sources
        self._task = task
        self._origin = origin
        self._tell_meta = tell_meta
        self._keep = keep
        self._spend = spend
        self._reads = reads
        self._guard: Guard | None = None
        self.streams = False
        """It must be read from its beginning: there is one run at a time, which brings all."""
        self.running = 0
        self.reading = Bitmap()
        """Pieces whose bytes are coming now."""

    def use(self, origin: Origin) -> None:
        """From the next request on."""
        self._origin = origin

    async def begin(self, at_byte: int) -> None:
        """Learn what the content is like, and read the piece in which ``at_byte`` lies.

        Raises:
            OriginError: the answer is no.
            CafsError: as ``Sources.open``, and for content that ends too soon or changed.
        """
        first = at_byte // MIN_PIECE_BYTES * MIN_PIECE_BYTES
        try:
            await self._read(first, first + MIN_PIECE_BYTES - 1)
        except OriginError as e:
            # An empty content has no range at all; some origins refuse ranges of what they make up.
            if e.status != _NO_SUCH_RANGE or first:
                raise
            await self._read(None, None)

    async def run(self, first: int, count: int) -> None:
        """Read pieces of a content whose layout is known; raises as ``begin``."""
        layout = self._task.layout
        assert layout is not None
        if self.streams or layout.content_bytes is None:
            await self._read(None, None)
            return
        begin = layout.first_byte(first)
        end = min(layout.content_bytes, layout.first_byte(first + count)) - 1
        await self._read(begin, end)
        if not any(number in self._task.have for number in range(first, first + count)):
            raise RemoteError("the origin gave nothing of the range that it was asked for")

    async def _read(self, first: int | None, last: int | None) -> None:
        known = self._task.meta
        guard = self._guard or (None if known is None else guard_of(known))
        self.running += 1
        try:
            origin = self._origin
            async with self._sources.open(
                origin.url, origin.headers, first, last, guard, for_others=origin.of_others
            ) as answer:
                check_shared(self._task.spec, answer.headers, origin.headers)
                self._guard = self._guard or answer.guard
                if answer.content_bytes is None or (first is not None and not answer.takes_ranges):
                    self.streams = True
                layout = self._learn(answer)
                await self._take(answer, layout)
        finally:
            self.running -= 1

    def _learn(self, answer: SourceAnswer) -> Layout:
        known = self._task.layout
        length = answer.content_bytes
        if known is None:
            known = Layout(length, piece_bytes_for(length))
        elif known.content_bytes is None and length is not None:
            known = Layout(length, known.piece_bytes)
        elif length is not None and length != known.content_bytes:
            raise ChangedError("the content has another length than it had")
        self._set_meta(known, answer.headers)
        return known

    def _set_meta(self, layout: Layout, headers: Headers) -> None:
        before = self._task.meta
        now_s = time.time()
        kept = before.headers if before is not None else replayed(dated(headers, now_s))
        meta = TaskMeta(layout, kept, origin_said_at(headers, now_s))
        self._task.set_meta(meta)
        if before is None or before.layout != layout:
            self._tell_meta(meta)

    async def _take(self, answer: SourceAnswer, layout: Layout) -> None:
        if answer.first_byte % layout.piece_bytes:
            return  # larger pieces than was thought when it was asked for: only its head is of use
        number = answer.first_byte // layout.piece_bytes
        left = _length(answer, layout)
        self._begin_piece(number)
        try:
            piece = bytearray()
            while data := await answer.receive():
                await self._spend(len(data))
                piece += data
                left = _less(left, len(data))
                while len(piece) >= layout.piece_bytes:
                    await self._keep_one(number, piece[: layout.piece_bytes])
                    del piece[: layout.piece_bytes]
                    self.reading.discard(number)
                    number += 1
                    if left != 0:
                        self._begin_piece(number)
            if left:
                raise RemoteError(f"the origin's answer ended {left} bytes too soon")
            await self._end(answer, layout, number, piece)
        finally:
            self.reading.discard(number)
            self._reads()

    def _begin_piece(self, number: int) -> None:
        self.reading.add(number)
        self._reads()

    async def _end(self, answer: SourceAnswer, layout: Layout, number: int, piece: bytearray) -> None:
        """What is left when the answer has ended; an end that nobody knew before is known now."""
        if self._task.layout is not None and self._task.layout.content_bytes is None:
            layout = Layout(number * layout.piece_bytes + len(piece), layout.piece_bytes)
            self._set_meta(layout, answer.headers)
        if piece and len(piece) == layout.size(number):
            await self._keep_one(number, piece)

    async def _keep_one(self, number: int, piece: bytearray) -> None:
        if number not in self._task.have:
            await self._keep(number, piece)
        else:
            await trio.lowlevel.checkpoint()


def _length(answer: SourceAnswer, layout: Layout) -> int | None:
    """Bytes that are to come; in chunks an answer may end anywhere, and nobody else would know."""
    last = answer.last_byte
    if last is None and layout.content_bytes is not None:
        last = layout.content_bytes - 1
    return None if last is None else last + 1 - answer.first_byte


def _less(left: int | None, came: int) -> int | None:
    if left is not None and came > left:
        raise ProtocolError("the origin's answer is longer than it says")
    return None if left is None else left - came


def guard_of(meta: TaskMeta) -> Guard:
    """What all answers of an origin must agree with."""
    return Guard(meta.header("etag"), meta.header("last-modified"), meta.layout.content_bytes)


def is_lasting(error: CafsError) -> bool:
    """Asking again will not help."""
    if isinstance(error, OriginError):
        return error.status < 500 and error.status not in {408, 425, 429}
    return isinstance(error, ChangedError | ForbiddenAddressError | NotSharedError)
