"""The trio shell round the FUSE protocol: reads the device, answers, and never lets a failure out.

Owns the loop on one FUSE descriptor and the tasks of reads that wait for bytes. Used by the mount server
(``cafs.node``). Knows nothing of what the tree shows, nor of mounting and supervision.

Tasks and cancellation: the loop runs in the caller's task and answers everything that is in memory at
once, many requests for one wake-up. A read that has to wait becomes a task in the session's own nursery
when it is its turn (``turns``). Cancelling ``run`` cancels these tasks without an answer: the kernel keeps
their requests, and sends them to the next server (see docs/takeover.md). ``run`` returns when the mount is
gone.

Interrupts: a read is given up only when its reader is being killed. A reader that merely handles a
signal must not see EINTR from a regular file, and kernel EROFS on top would make an I/O error of it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from cafs.errors import CafsError, ProtocolError
from cafs.fuse import protocol, replies
from cafs.fuse.answers import answer, errno_of, read_reply
from cafs.fuse.dying import is_being_killed
from cafs.fuse.outstanding import Outstanding
from cafs.fuse.tree import Buffer, FileTree
from cafs.fuse.turns import Turns

log = logging.getLogger(__name__)

BURST = 64
"""Requests answered before other tasks get their turn."""
LINGER = 20
"""Looks for the next request, some 30 us in all, before going to sleep. A lone reader that sends one
request after the other is served three times as fast as with an epoll round for each. Not while reads wait:
their worker threads need the interpreter then."""
MAX_UNDER_WAY = 1024
"""Reads that have a task at the same time."""
MAX_WAITING = 8192
"""Those and the ones that wait for their turn; above it the kernel keeps further requests queued."""
MAX_PIECES = 1000
"""Below IOV_MAX (1024), which bounds one ``writev``."""
RECHECK_INTERRUPTED_S = 0.2
"""How soon a reader that handled a signal first and was killed later is noticed."""

_GONE = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN})
"""What the device says when the mount has been unmounted or aborted."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A read that is not answered yet."""

    node: int
    pid: int
    scope: trio.CancelScope


class Session:
    """One server's turn on a FUSE descriptor."""

    def __init__(self, descriptor: int, tree: FileTree, outstanding: Outstanding) -> None:
        """
        Args:
            descriptor: ``/dev/fuse``, mounted, non-blocking, FUSE_INIT answered. Stays the caller's.
            tree: What is shown.
            outstanding: Remembers unanswered requests where the kernel does not; holds the buffer
                that requests are read into.
        """
        self._descriptor = descriptor
        self._tree = tree
        self._outstanding = outstanding
        self._waiting: dict[int, _Waiting] = {}
        self._turns = Turns(MAX_UNDER_WAY)
        self._interrupted: set[int] = set()
        self._interrupt_seen = trio.Event()
        self._room = trio.Event()
        self._gone = False

    async def run(self) -> None:
        """Answer requests until the mount is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_interrupted)
            await self._answer_all(nursery)
            nursery.cancel_scope.cancel()

    async def _answer_all(self, nursery: trio.Nursery) -> None:
        burst = lingered = 0
        while True:
            message = self._next_message()
            if message is not None:
                self._handle(message, nursery)
                burst += 1
                lingered = 0
            elif self._gone:
                return
            elif burst and lingered < LINGER and not self._waiting:
                lingered += 1
                os.sched_yield()
            else:
                burst = lingered = 0
                await trio.lowlevel.wait_readable(self._descriptor)
            if burst >= BURST:
                burst = 0
                await trio.lowlevel.checkpoint()
            while len(self._waiting) >= MAX_WAITING:
                self._room = trio.Event()
                await self._room.wait()

    def _next_message(self) -> memoryview | None:
        """The next queued request, None when there is none."""
        buffer = self._outstanding.buffer
        try:
            return buffer[: os.readv(self._descriptor, [buffer])]
        except BlockingIOError:
            return None
        except OSError as e:
            self._gone = e.errno in _GONE
            if not self._gone and e.errno not in {errno.ENOENT, errno.EINTR}:  # ENOENT: reader gave up
                raise
            return None

    def _handle(self, message: memoryview, nursery: trio.Nursery) -> None:
        """Answer one request, or start the task that will."""
        try:
            request = protocol.parse_request(message)
        except ProtocolError as e:
            log.warning("malformed FUSE request: %s", e)
            unique = protocol.peek_unique(message)
            if unique is not None:
                self._send(unique, (replies.encode_error(unique, errno.EIO),))
            return
        try:
            pieces = answer(self._tree, request)
        except Exception as e:
            pieces = self._failure(request, e)
        if pieces:
            self._send(request.unique, pieces)
        elif isinstance(request, protocol.Read):
            self._start_read(request, nursery)
        elif isinstance(request, protocol.Interrupt) and request.target in self._waiting:
            self._interrupted.add(request.target)
            self._interrupt_seen.set()

    def _start_read(self, request: protocol.Read, nursery: trio.Nursery) -> None:
        self._waiting[request.unique] = _Waiting(request.nodeid, request.pid, trio.CancelScope())
        self._outstanding.add(request.unique)
        self._turns.park(request)
        self._start_parked(nursery)

    def _start_parked(self, nursery: trio.Nursery) -> None:
        while (request := self._turns.take()) is not None:
            nursery.start_soon(self._read, request, self._waiting[request.unique], nursery)

    async def _read(self, request: protocol.Read, waiting: _Waiting, nursery: trio.Nursery) -> None:
        pieces: Sequence[Buffer] = (replies.encode_error(request.unique, errno.EINTR),)
        try:
            with waiting.scope:
                data = await self._tree.read(request.nodeid, request.offset, request.size)
                pieces = read_reply(request.unique, data)
        except Exception as e:
            pieces = self._failure(request, e)
        finally:
            self._turns.end(request)
            self._forget(request.unique)
        self._send(request.unique, pieces)
        self._outstanding.remove(request.unique)
        self._start_parked(nursery)

    def _forget(self, unique: int) -> None:
        del self._waiting[unique]
        self._interrupted.discard(unique)
        self._room.set()

    def _give_up(self, unique: int) -> None:
        """Its reader is being killed."""
        waiting = self._waiting[unique]
        self._interrupted.discard(unique)
        if not self._turns.drop(waiting.node, unique):
            waiting.scope.cancel()
            return
        self._forget(unique)
        self._send(unique, (replies.encode_error(unique, errno.EINTR),))
        self._outstanding.remove(unique)

    async def _watch_interrupted(self) -> None:
        """Give up reads whose readers are being killed."""
        while True:
            if not self._interrupted:
                self._interrupt_seen = trio.Event()
                await self._interrupt_seen.wait()
            for unique in tuple(self._interrupted):
                if is_being_killed(self._waiting[unique].pid):
                    self._give_up(unique)
            with trio.move_on_after(RECHECK_INTERRUPTED_S):
                await self._next_interrupt()

    async def _next_interrupt(self) -> None:
        self._interrupt_seen = trio.Event()
        await self._interrupt_seen.wait()

    def _failure(self, request: protocol.Request, failure: Exception) -> Sequence[Buffer]:
        error = errno_of(failure)
        what = type(request).__name__
        node = getattr(request, "nodeid", 0)
        unexpected = None if isinstance(failure, CafsError) else failure
        log.warning(
            "%s failed with %s: %s %s",
            what,
            errno.errorcode[error],
            failure,
            self._tree.describe(node),
            exc_info=unexpected,
        )
        return (replies.encode_error(request.unique, error),)

    def _send(self, unique: int, pieces: Sequence[Buffer]) -> None:
        if len(pieces) > MAX_PIECES:
            pieces = (b"".join(pieces),)
        try:
            os.writev(self._descriptor, pieces)
        except OSError as e:
            # ENOENT: the kernel no longer waits (reader killed, or answered by the server before us).
            if e.errno == errno.ENOENT or e.errno in _GONE:
                return
            log.warning("the kernel refused an answer to request %#x: %s", unique, e)
            if len(pieces) > 1:
                self._send(unique, (replies.encode_error(unique, errno.EIO),))
