"""The bytes of a task, in order, for one reader: see ``Content``.

Each piece is verified as it is read from the disk, or was as it came. What is not here yet is waited for;
what has gone from the disk is fetched again. The last piece of a content that has to have a digest comes when
it has it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from types import TracebackType
from typing import Protocol, Self, cast

import trio

from cafs.core.swarm.demand import Demand
from cafs.errors import NotFoundError
from cafs.p2p.content import Headers
from cafs.p2p.reader_figures import Reader
from cafs.p2p.stored_task import StoredTask


class Attachment(Protocol):
    """A reader's hold on a task: while it lasts, somebody brings what the demand says."""

    task: StoredTask
    demand: Demand

    def look(self) -> None:
        """See to it that what is missing is being brought, sooner where the demand is now.

        Raises:
            Exception: the download's own, when it failed.
        """
        ...

    def release(self) -> None:
        """Nobody reads any more."""
        ...


class TaskContent:
    """See the module. Made when the content's layout is known, or its length is known to be unknown."""

    def __init__(self, attachment: Attachment, reader: Reader) -> None:
        self._attachment = attachment
        self._reader = reader
        self._task = attachment.task
        meta = self._task.meta
        assert meta is not None
        demand, total = attachment.demand, meta.layout.content_bytes
        self.status: int = HTTPStatus.OK
        self.headers: Headers = (*meta.headers, ("x-cafs-task", self._task.id))
        self.content_bytes = total
        self.first_byte = demand.first_byte
        self.last_byte = demand.last_byte
        if total is not None:
            self.last_byte = total - 1 if demand.last_byte is None else min(demand.last_byte, total - 1)
        self._at = demand.first_byte

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attachment.release()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        layout = self._task.layout
        assert layout is not None
        if self._is_at_end():
            raise StopAsyncIteration
        number = self._at // layout.piece_bytes
        piece = await self._piece(number)
        if piece is None:
            raise StopAsyncIteration
        begin = self._at - layout.first_byte(number)
        end = len(piece)
        if self.last_byte is not None:
            end = min(end, self.last_byte + 1 - layout.first_byte(number))
        self._at += end - begin
        self._attachment.demand.at_byte = self._at
        self._reader.given(number, end - begin, trio.current_time())
        return piece if (begin, end) == (0, len(piece)) else piece[begin:end]

    def _is_at_end(self) -> bool:
        layout = self._task.layout
        last = self.last_byte
        if layout is not None and layout.content_bytes is not None:
            last = layout.content_bytes - 1 if last is None else min(last, layout.content_bytes - 1)
        return last is not None and self._at > last

    async def _piece(self, number: int) -> bytes | None:
        """The piece, once it is here; None: the content has ended before it."""
        task = self._task
        while True:
            layout = task.layout
            if layout is not None and layout.count is not None and number >= layout.count:
                return None
            if number in task.have and not task.forgotten and not self._is_withheld(number):
                try:
                    return cast(bytes, await task.read_piece(number))  # or as good: nobody changes it
                except NotFoundError:  # it has rotted, or all of it was deleted
                    await trio.lowlevel.checkpoint()
                    continue
            self._attachment.look()
            await task.changed()

    def _is_withheld(self, number: int) -> bool:
        task = self._task
        if task.spec.digest is None or task.whole or not self._attachment.demand.is_whole():
            return False
        layout = task.layout
        return layout is None or layout.count is None or number == layout.count - 1
