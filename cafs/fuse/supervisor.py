"""Keeps a FUSE mount alive: holds the descriptor and forks a server whenever there is none.

Owns the descriptor, the lock on the mount's state directory and the server's process. Used by
``cafs.node``, which says what a server does. It must stay dull: one thread, no trio loop, no chunk
store, nothing that can fail for want of memory or network. The server is forked, never spawned, before
any thread exists.

A server that ends with ``GONE`` says that nothing is mounted any more, and so the supervisor ends too.
Any other end (killed, out of memory, crashed) is followed by the next server at once, later ones after
a growing pause while they keep crashing; it never gives up while the mount is there. What the new server
does with the requests of the old one: docs/takeover.md. When the supervisor itself is killed, its server
executes ``adopt`` and so becomes the next supervisor.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from cafs.errors import StateError
from cafs.fuse import handshake, replies
from cafs.fuse.outstanding import BUFFER_BYTES, Outstanding
from cafs.fuse.syscalls import signal_on_parent_death

log = logging.getLogger(__name__)

GONE = 0
"""Exit status of a server whose mount has been unmounted."""
REFUSED = 64
"""Exit status of a first server that could not begin, and told why: no other one is tried."""
INIT_TIMEOUT_MS = 10_000

PROMPT_RESTARTS = 10
"""Crashes in a row that are answered without a pause."""
LONGEST_PAUSE_S = 5.0
HEALTHY_S = 30.0
"""A server that lived so long has not crashed at its start."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a forked server gets."""

    descriptor: int
    """The FUSE device, FUSE_INIT answered."""
    outstanding: Outstanding
    can_resend: bool
    takes_over: bool
    """An earlier server held this mount."""


def answer_init(descriptor: int, *, allow_resend: bool = True) -> handshake.Negotiated:
    """Read the kernel's FUSE_INIT, the first request of every mount, and answer it.

    Raises:
        StateError: it did not come.
        ProtocolError: this kernel is too old.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(INIT_TIMEOUT_MS):
        raise StateError("the kernel sent no FUSE_INIT")
    request = handshake.parse_init(os.read(descriptor, BUFFER_BYTES))
    agreed = handshake.negotiate(request, allow_resend=allow_resend)
    os.write(descriptor, handshake.encode_init_reply(request.unique, agreed))
    return agreed


def claim_unanswered(turn: Turn) -> None:
    """Called by a server before it answers anything: what becomes of its predecessor's requests."""
    if not turn.takes_over:
        return
    if turn.can_resend:
        turn.outstanding.clear()
        with contextlib.suppress(OSError):  # unmounted meanwhile: the session will notice
            os.write(turn.descriptor, replies.encode_resend())
        log.info("took over; unanswered requests come again")
        return
    left = turn.outstanding.take_all()
    for unique in left:
        with contextlib.suppress(OSError):  # ENOENT: it had been answered
            os.write(turn.descriptor, replies.encode_error(unique, errno.EIO))
    log.warning("took over on a kernel that cannot resend: %d unanswered requests fail with EIO", len(left))


def pause_before_restart(crashes: int) -> float:
    """Seconds to wait after ``crashes`` early deaths in a row."""
    if crashes <= PROMPT_RESTARTS:
        return 0.0
    return min(0.1 * 2.0 ** min(crashes - PROMPT_RESTARTS, 10), LONGEST_PAUSE_S)


class Supervisor:
    """Runs one server after the other on one descriptor."""

    def __init__(
        self,
        turn: Turn,
        serve: Callable[[Turn], int],
        *,
        stop: Callable[[], None],
        started: Callable[[int], None],
        adopt: Callable[[Turn], Sequence[str]],
        starter: int | None = None,
    ) -> None:
        """
        Args:
            turn: For the first server.
            serve: Runs in the forked server and returns its exit status.
            stop: Unmounts; called on SIGTERM and SIGINT, and when the starter died.
            started: Told the process id of each server.
            adopt: The program that a server without a supervisor executes. Its descriptors are
                inheritable by then.
            starter: Descriptor that becomes readable when the command that asked for the mount said
                that it is complete (one byte) or died before that (end of file): then all is undone.
        """
        self._turn = turn
        self._serve = serve
        self._stop = stop
        self._started = started
        self._adopt = adopt
        self._starter = starter
        self._crashes = 0
        self._abandoned = False

    def run(self) -> int:
        """Supervise until the mount is gone.

        Returns:
            ``GONE`` or ``REFUSED``.
        """
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        while True:
            began = time.monotonic()
            status = self._one_server(wake_read)
            if self._abandoned:
                return GONE
            if status in {GONE, REFUSED}:
                return status
            early = time.monotonic() - began < HEALTHY_S
            self._crashes = self._crashes + 1 if early else 1
            pause = pause_before_restart(self._crashes)
            log.warning(
                "the mount server ended (%s); the next one starts in %.1f s", _describe(status), pause
            )
            self._turn = Turn(self._turn.descriptor, self._turn.outstanding, self._turn.can_resend, True)
            if _wait([wake_read], pause):
                self._stop_logged()

    def _one_server(self, wake: int) -> int:
        """Fork a server and wait for its end, serving signals and the starter meanwhile."""
        supervisor = os.getpid()
        child = os.fork()
        if child == 0:
            self._become_server(supervisor)
        self._started(child)
        ended = os.pidfd_open(child)
        try:
            while True:
                ready = _wait([ended, wake, *([] if self._starter is None else [self._starter])])
                if wake in ready:
                    os.read(wake, 64)
                    self._end(child)
                if self._starter is not None and self._starter in ready:
                    self._hear_starter(self._starter, child)
                if ended in ready:
                    _pid, status = os.waitpid(child, 0)
                    return os.waitstatus_to_exitcode(status)
        finally:
            os.close(ended)

    def _hear_starter(self, starter: int, child: int) -> None:
        if os.read(starter, 1):
            self._starter = None
            return
        log.warning("the command that asked for the mount ended early: unmounting")
        self._end(child)
        self._starter = None

    def _end(self, child: int) -> None:
        """Unmount; the server ends when it sees that. One that may not serve yet cannot see it."""
        self._stop_logged()
        if self._starter is not None:
            self._abandoned = True
            os.kill(child, signal.SIGKILL)

    def _become_server(self, supervisor: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGUSR1, lambda _number, _frame: self._become_supervisor())
            signal_on_parent_death(signal.SIGUSR1)
            if os.getppid() != supervisor:
                self._become_supervisor()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            status = self._serve(self._turn)
        except BaseException:  # noqa: ASYNC103 - the process ends right below, whatever it was
            log.exception("the mount server crashed")
        finally:
            os._exit(status)

    def _become_supervisor(self) -> NoReturn:
        """Our supervisor was killed. Exec keeps the descriptors and ends our threads, whatever they do."""
        log.warning("the supervisor was killed: the mount server takes its place")
        os.set_inheritable(self._turn.descriptor, True)
        os.set_inheritable(self._turn.outstanding.descriptor, True)
        command = list(self._adopt(self._turn))
        os.execv(command[0], command)  # noqa: S606  the same program, with our own arguments

    def _stop_logged(self) -> None:
        try:
            self._stop()
        except Exception:
            log.exception("cannot unmount")


def _wait(descriptors: list[int], timeout_s: float | None = None) -> list[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [fd for fd, _event in poll.poll(None if timeout_s is None else timeout_s * 1000)]


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
