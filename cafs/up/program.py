"""``cafs up``: starts all services, tells when they are ready, keeps them, ends them in order.

One thread. Every service is a task that keeps it; what ends the whole (Ctrl-C, SIGTERM, a service that
cannot start) ends them one after another, in the opposite order of their start. A second Ctrl-C kills them.
When this process is killed, the kernel tells each of them to end.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from cafs.daemon.service_manager import ServiceManager
from cafs.errors import CafsError
from cafs.fuse.syscalls import become_subreaper
from cafs.up.keep import Kept
from cafs.up.lines import Printer
from cafs.up.plan import Plan

_SETUP_LINK = re.compile(r"https?://\S+/setup\?link=\S+")
_STANDARD_ERROR = 2
_LAST_LINES_S = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    directory: Path
    """For sockets of ours; locked by whoever calls."""
    quiet: bool
    say_ready: Callable[[str, float], None]
    """Told the set-up link of the manager, or nothing, and how long it all took, in seconds."""


async def run(plan: Plan, options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        CafsError: a service cannot start.
    """
    systemd = ServiceManager(os.environ)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGCHLD) as signals:
        become_subreaper()
        printer = Printer(_STANDARD_ERROR, max(len(service.name) for service in plan.services), options.quiet)
        troop = _Troop(plan, options.directory, printer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_heed, signals, troop)
            nursery.start_soon(printer.run)
            for kept, after in troop.in_order():
                nursery.start_soon(kept.run, after)
            failure = await troop.serve(partial(_tell, options, systemd))
            systemd.tell("STOPPING=1")
            await troop.end()
            with trio.move_on_after(_LAST_LINES_S):
                await printer.end()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


def _tell(options: Options, systemd: ServiceManager, link: str, seconds: float) -> None:
    options.say_ready(link, seconds)
    systemd.tell("READY=1")


async def _heed(signals: AsyncIterator[int], troop: _Troop) -> None:
    async for number in signals:
        if number == signal.SIGCHLD:
            troop.reap()
        else:
            troop.ask_to_end()


class _Troop:
    """All services."""

    def __init__(self, plan: Plan, directory: Path, printer: Printer) -> None:
        self._link = ""
        self._ending = False
        self._news = trio.Event()
        self._kept = {
            service.name: Kept(
                service, directory / service.name, printer.say, self._look_for_link, self._has_news
            )
            for service in plan.services
        }

    def in_order(self) -> list[tuple[Kept, list[Kept]]]:
        """Each, and whom it waits for."""
        return [(kept, [self._kept[name] for name in kept.service.after]) for kept in self._kept.values()]

    async def serve(self, ready: Callable[[str, float], None]) -> CafsError | None:
        """Until it is asked to end; or what ends it.

        Args:
            ready: Called when all are.
        """
        began, told = trio.current_time(), False
        while not self._ending:
            failures = [kept.failure for kept in self._kept.values() if kept.failure is not None]
            if failures:
                return failures[0]
            if not told and all(kept.ready.is_set() for kept in self._kept.values()):
                told = True
                ready(self._link, trio.current_time() - began)
            self.reap()
            self._news = trio.Event()
            await self._news.wait()
        return None

    async def end(self) -> None:
        """All of them, the last one first."""
        self._ending = True
        for kept in reversed(self._kept.values()):
            await kept.end()

    def ask_to_end(self) -> None:
        """For the second time: at once."""
        if self._ending:
            for kept in self._kept.values():
                kept.ask_to_end(signal.SIGKILL)
        self._ending = True
        self._has_news()

    def reap(self) -> None:
        """Take the status of orphans that were given to us; those whom we know are their keepers' matter."""
        known = {kept.pid for kept in self._kept.values()}
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if dead.si_pid in known:
                    return
                os.waitpid(dead.si_pid, os.WNOHANG)

    def _has_news(self) -> None:
        self._news.set()

    def _look_for_link(self, line: str) -> None:
        if not self._link and (found := _SETUP_LINK.search(line)):
            self._link = found[0]
