"""Keeps one service: starts it, starts it again when it dies, ends it. Belongs to the trio thread.

A service is a process and its group. When the process ends, whatever is left of its group is ended too, so
that its successor has sockets and locks to itself; what it had handed us (``Notices``) goes to that one.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from cafs.errors import CafsError, IntegrityError, StateError, UsageError
from cafs.up.lines import Lines, last_word
from cafs.up.notices import Notices
from cafs.up.plan import Service
from cafs.up.spawn import spawn

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
HEALTHY_S = 30.0
"""A process that lived so long did not die of its start."""
START_S = 60.0
"""As long as it may take to be ready."""
GRACE_S = 15.0
"""As long as it may take to end."""
_LAST_LINES_S = 1.0
_GROUP_S, _LOOK_S = 5.0, 0.01
_KINDS: dict[int, type[CafsError]] = {2: UsageError, 3: IntegrityError}
"""What a command's exit code says of what ended it."""


def pause_s(deaths: int) -> float:
    """How long to wait after so many early deaths in a row."""
    return min(FIRST_PAUSE_S * 2.0 ** min(deaths - 1, 10), LONGEST_PAUSE_S)


def how_it_ended(status: int) -> str:
    """In words; ``status`` as ``os.waitstatus_to_exitcode`` has it."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"


@dataclass
class Kept:
    """One service."""

    service: Service
    notices: Path
    """Where its socket for notices is made."""
    say: Callable[[str, str], None]
    """Prints a line under a name."""
    hear: Callable[[str], None]
    """Gets each line of the service."""
    changed: Callable[[], None]
    """Called when it has become ready, has failed, or a process of it has ended."""
    ready: trio.Event = field(default_factory=trio.Event)
    """It was ready once."""
    ended: trio.Event = field(default_factory=trio.Event)
    """It has ended for good."""
    failure: CafsError | None = None
    """Why it could not start."""
    pid: int = 0
    """Of its process; 0: there is none."""
    _stopping: bool = False
    _waiting: trio.CancelScope | None = None
    _last_word: str = ""

    async def run(self, after: Sequence[Kept]) -> None:
        """Until ``end``, or it could not start the first time.

        Args:
            after: Those that must be ready first.
        """
        try:
            with Notices(self.notices) as notices:
                for other in after:
                    await self._unless_stopped(other.ready.wait)
                await self._live(notices)
        except CafsError as e:
            self.failure = e
            self.changed()
        finally:
            self.ended.set()

    async def end(self) -> None:
        """End it in order, or by force when that takes too long."""
        self.ask_to_end(signal.SIGINT)
        with trio.move_on_after(GRACE_S):
            await self.ended.wait()
            return
        self.say("up", f"cafs: WARNING: {self.service.name} does not end: it is killed")
        self.ask_to_end(signal.SIGKILL)
        await self.ended.wait()

    def ask_to_end(self, number: signal.Signals) -> None:
        """Have it end, and not start again."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.cancel()
        if self.pid:
            os.kill(self.pid, number)  # our child, and not reaped: this is still its number

    async def _unless_stopped(self, wait: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope() as self._waiting:
            if not self._stopping:
                await wait()
        self._waiting = None

    async def _live(self, notices: Notices) -> None:
        deaths = 0
        while not self._stopping:
            began = trio.current_time()
            status = await self._one_life(notices)
            self.changed()
            if self._stopping:
                return
            if not self.ready.is_set():
                self._fail(status)
                return
            deaths = deaths + 1 if trio.current_time() - began < HEALTHY_S else 1
            pause = pause_s(deaths)
            words = f"{self.service.name} ended ({how_it_ended(status)}) and starts again in {pause:g} s"
            self.say("up", f"cafs: WARNING: {words}")
            await self._unless_stopped(partial(trio.sleep, pause))

    def _fail(self, status: int) -> None:
        kind = _KINDS.get(status, StateError)
        self.failure = kind(f"{self.service.name}: {self._last_word or how_it_ended(status)}")
        self.changed()

    async def _one_life(self, notices: Notices) -> int:
        """From its start to its end; how that was."""
        read, write = os.pipe2(os.O_CLOEXEC)
        lines = Lines(read, self._take)
        self._last_word = ""
        environment = _environment(notices.path)
        command = [sys.executable, "-m", "cafs", *self.service.arguments]
        self.pid = spawn(command, environment, write, notices.kept)
        os.close(write)
        ending = os.pidfd_open(self.pid)
        try:
            async with trio.open_nursery() as nursery:
                printed = trio.Event()
                nursery.start_soon(self._print, lines, printed)
                nursery.start_soon(self._listen, notices, lines)
                await trio.lowlevel.wait_readable(ending)
                self._end_group()
                with trio.move_on_after(_LAST_LINES_S):
                    await printed.wait()
                nursery.cancel_scope.cancel()
        finally:
            lines.close()
            with trio.CancelScope(shield=True):
                status = await self._bury(ending)
            os.close(ending)
        return status

    async def _print(self, lines: Lines, printed: trio.Event) -> None:
        await lines.read_all()
        printed.set()

    async def _listen(self, notices: Notices, lines: Lines) -> None:
        with trio.move_on_after(START_S) as limit:
            await notices.hear_ready()
        if limit.cancelled_caught:
            self._last_word = f"it is not ready after {START_S:.0f} s"
            os.kill(self.pid, signal.SIGKILL)
            return
        lines.read_some()  # what it said before it was ready
        if not self.ready.is_set():
            self.ready.set()
            self.changed()
        await notices.hear()

    def _take(self, line: str) -> None:
        if self._stopping and not self.ready.is_set():
            return  # interrupted while it loads, Python says where
        self.hear(line)
        word = last_word(line)
        if word is not None:
            self._last_word = word
            if not self.ready.is_set():
                return  # it will be the last word of all
        self.say(self.service.name, line)

    def _end_group(self) -> None:
        """At once: a mount server whose supervisor is dead would take its place."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _bury(self, ending: int) -> int:
        """End what is left of the process and its group, and take its status."""
        self._end_group()
        pid, status = self.pid, -int(signal.SIGKILL)
        with trio.move_on_after(_GROUP_S):
            await trio.lowlevel.wait_readable(ending)
            status = _take_status(pid)
            while _has_members(pid):  # noqa: ASYNC110  the kernel does not tell
                await trio.sleep(_LOOK_S)
        self.pid = 0
        return status


def _take_status(pid: int) -> int:
    """Of a child that has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, os.WNOHANG)[1])


def _has_members(group: int) -> bool:
    """Orphans of this machine's services are our children, so they are reaped here."""
    try:
        os.waitpid(-group, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def _environment(notices: Path) -> Mapping[str, str]:
    ours = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    kept = {name: text for name, text in os.environ.items() if name not in ours}
    # Nor is code taken from the folder that we happen to be in.
    return {**kept, "NOTIFY_SOCKET": str(notices), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}
