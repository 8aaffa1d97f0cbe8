"""Keeps a FUSE mount alive: holds the descriptor and forks a server whenever there is none.

Owns the descriptor, the lock on the mount's state directory and the server's process. Used by
``cafs.node``, which says what a server does. It must stay dull: one thread, no trio loop, no chunk
store, nothing that can fail for want of memory or network. The server is forked, never spawned, before
any thread exists.

A server that ends with ``GONE`` says that nothing is mounted any more, and so the supervisor ends too.
Any other end (killed, out of memory, crashed) is followed by the next server at once, later ones after
a growing pause while they keep crashing; it never gives up while the mount is there, but after a minute
refuses what is read meanwhile (``refusing``). What the new server
does with the requests of the old one: docs/takeover.md. When the supervisor itself is killed, its server
executes ``adopt`` and so becomes the next supervisor. The supervisor may also execute it itself, to go on
with newer code; its server goes on serving until the new code is loaded.

A new mount may begin with a *first* server, which needs less code than the others and answers what it can
while the supervisor loads what they need; it is killed then, and the next one takes over as always.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple, NoReturn

from cafs.errors import StateError
from cafs.fuse import handshake, replies
from cafs.fuse.outstanding import BUFFER_BYTES, Outstanding
from cafs.fuse.refusing import Failures, is_gone, refuse_waiting
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


class Then(Enum):
    """What the supervisor does after it has followed an order."""

    STAY = auto()
    """Go on; when the order has unmounted, the server will see that and end."""
    LEAVE = auto()
    """End, with the server. The mount ends with it, unless somebody else holds its descriptor."""
    REPLACE = auto()
    """Execute ``adopt``; between two servers there is nothing to replace."""


class Beginning(NamedTuple):
    """How a new mount is served before the code of a server is loaded."""

    serve: Callable[[Turn], int]
    """Runs in the forked first server; what it returns does not matter."""
    load: Callable[[], None]
    """Loads what the other servers need, in the supervisor, meanwhile."""


class Turn(NamedTuple):
    """What a forked server gets."""

    descriptor: int
    """The FUSE device, FUSE_INIT answered."""
    outstanding: Outstanding
    can_resend: bool
    takes_over: bool
    """An earlier server held this mount."""
    as_planned: bool = False
    """It was the first one: nobody has died."""


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
        if not turn.as_planned:
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
        orders: Mapping[signal.Signals, Callable[[], Then]],
        started: Callable[[int], None],
        adopt: Callable[[Turn, int], Sequence[str]] | None,
        starter: int | None = None,
        predecessor: int | None = None,
        beginning: Beginning | None = None,
    ) -> None:
        """
        Args:
            turn: For the first server.
            serve: Runs in the forked server and returns its exit status.
            orders: What to do on these signals, and on SIGTERM's behalf when the starter died.
            started: Told the process id of each server.
            adopt: The program that a server without a supervisor executes, or the supervisor itself. It is
                told a child that holds the descriptors: ``predecessor`` of the next supervisor. These are
                inheritable by then. None: a server ends with its supervisor, and no order is to REPLACE.
            starter: Descriptor that becomes readable when the command that asked for the mount said
                that it is complete (one byte) or died before that (end of file): then all is undone.
            predecessor: Our child that serves, or only holds the descriptors, until we can fork a server.
            beginning: What comes before the first server of the usual kind. Only where the kernel
                can resend.
        """
        self._turn = turn
        self._serve = serve
        self._orders = orders
        self._started = started
        self._adopt = adopt
        self._starter = starter
        self._crashes = 0
        self._failures = Failures()
        self._predecessor = predecessor
        self._beginning = beginning
        self._leaves = False

    def run(self) -> int:
        """Supervise until the mount is gone.

        Returns:
            ``GONE`` or ``REFUSED``.
        """
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write)
        for number in self._orders:
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._orders)
        if self._beginning is not None:
            self._begin(self._beginning)
        if self._predecessor is not None:
            os.kill(self._predecessor, signal.SIGKILL)
            os.waitpid(self._predecessor, 0)
        while True:
            began = time.monotonic()
            status = self._one_server(wake_read)
            if self._leaves:
                return GONE
            if status in {GONE, REFUSED}:
                return status
            if is_gone(self._turn.descriptor):  # one that fails at its start does not see that
                return GONE
            self._failures.note(status, began, HEALTHY_S)
            early = time.monotonic() - began < HEALTHY_S
            self._crashes = self._crashes + 1 if early else 1
            pause = pause_before_restart(self._crashes)
            log.warning(
                "the mount server ended (%s); the next one starts in %.1f s", _describe(status), pause
            )
            self._turn = self._turn._replace(takes_over=True, as_planned=False)
            if self._rest(wake_read, pause):
                self._follow_orders(os.read(wake_read, 64), None)
                if self._leaves:
                    return GONE

    def _rest(self, wake: int, pause_s: float) -> bool:
        """Before the next server; whether there is an order to follow."""
        if self._failures.hopeless:
            turn = self._turn
            refuse_waiting(turn.descriptor, turn.outstanding, wake, pause_s, can_resend=turn.can_resend)
            pause_s = 0
        return bool(_wait([wake], pause_s))

    def _begin(self, beginning: Beginning) -> None:
        """Let the first server answer until everything is loaded. Signals and the starter wait meanwhile."""
        self._predecessor = self._fork(beginning.serve)
        beginning.load()
        self._turn = self._turn._replace(takes_over=True, as_planned=True)

    def _fork(self, serve: Callable[[Turn], int]) -> int:
        supervisor = os.getpid()
        child = os.fork()
        if child == 0:
            self._become_server(supervisor, serve)
        self._started(child)
        return child

    def _one_server(self, wake: int) -> int:
        """Fork a server and wait for its end, serving signals and the starter meanwhile."""
        child = self._fork(self._serve)
        ended = os.pidfd_open(child)
        try:
            while True:
                ready = _wait([ended, wake, *([] if self._starter is None else [self._starter])])
                if wake in ready:
                    self._follow_orders(os.read(wake, 64), child)
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
        self._follow_orders(bytes([signal.SIGTERM]), child)
        self._starter = None

    def _follow_orders(self, numbers: bytes, child: int | None) -> None:
        """Do what these signals ask for."""
        for number in dict.fromkeys(numbers):
            order = self._orders.get(signal.Signals(number))
            if order is None:
                continue
            then = self._follow(order)
            if then is Then.REPLACE and child is not None and self._adopt is not None:
                self._execute_successor(self._adopt, child)
            # A server that may not serve yet cannot see that the mount is gone.
            if then is Then.LEAVE or self._starter is not None:
                self._leaves = True
                if child is not None:
                    os.kill(child, signal.SIGKILL)

    def _become_server(self, supervisor: int, serve: Callable[[Turn], int]) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            self._outlive(supervisor)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            status = serve(self._turn)
        except BaseException:  # noqa: ASYNC103 - the process ends right below, whatever it was
            log.exception("the mount server crashed")
        finally:
            os._exit(status)

    def _outlive(self, supervisor: int) -> None:
        """Take our supervisor's place when it is killed; where nobody is to take it, end with it."""
        adopt = self._adopt
        if adopt is None:
            signal_on_parent_death(signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)
            return
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self._become_supervisor(adopt))
        signal_on_parent_death(signal.SIGUSR1)
        if os.getppid() != supervisor:
            self._become_supervisor(adopt)

    def _become_supervisor(self, adopt: Callable[[Turn, int], Sequence[str]]) -> NoReturn:
        """Our supervisor was killed. Exec keeps the descriptors and ends our threads, whatever they do."""
        attempts = 0
        while True:
            attempts += 1
            log.warning("the supervisor was killed: the mount server takes its place")
            time.sleep(pause_before_restart(attempts))
            us = os.getpid()
            holder = os.fork()
            if holder:
                self._execute_successor(adopt, holder)
            # A copy of this thread alone: it has the descriptors while the new program loads, does nothing
            # but wait, and takes that one's place in its turn should it be killed, or not even begin.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            signal_on_parent_death(signal.SIGUSR1)
            if os.getppid() == us:
                signal.sigwait({signal.SIGUSR1})
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})

    def _execute_successor(self, adopt: Callable[[Turn, int], Sequence[str]], child: int) -> NoReturn:
        """Orders that come before the next supervisor can hear them wait for it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, self._orders)
        os.set_inheritable(self._turn.descriptor, True)
        os.set_inheritable(self._turn.outstanding.descriptor, True)
        command = list(adopt(self._turn, child))
        os.execv(command[0], command)  # noqa: S606  the same program, with our own arguments

    def _follow(self, order: Callable[[], Then]) -> Then:
        try:
            return order()
        except Exception:
            log.exception("cannot do what was asked for by signal")
            return Then.STAY


def _wait(descriptors: list[int], timeout_s: float | None = None) -> list[int]:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [fd for fd, _event in poll.poll(None if timeout_s is None else timeout_s * 1000)]


def _describe(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
