"""Looking names up beside everything else that wants a thread.

``getaddrinfo`` cannot be given up: a name server that does not answer keeps its thread for up to half a
minute, whoever still waits. In trio's own threads, forty such lookups would keep all others from theirs. Here
lookups have threads of their own, one for all who ask the same at the same time; who asks waits for a bounded
time, and the thread goes on for whoever asks meanwhile.

Programs that run for long call ``use_own_lookups`` first inside ``trio.run``; then all of trio's lookups
go this way, also those of libraries.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any

import trio

THREADS = 64
MOST_UNDER_WAY = 1024
"""Questions that have a thread or wait for one; further ones are refused."""
LOOKUP_S = 15.0


def use_own_lookups() -> None:
    """Have all names of this run looked up here."""
    trio.socket.set_custom_hostname_resolver(Lookups())


@dataclass(slots=True, eq=False)
class _Question:
    waiting: int = 0
    answered: trio.Event = field(default_factory=trio.Event)
    answer: Any = None
    failure: OSError | UnicodeError | None = None


class Lookups(trio.abc.HostnameResolver):
    """See the module."""

    def __init__(self) -> None:
        self._threads = trio.CapacityLimiter(THREADS)
        self._under_way: dict[tuple[Any, ...], _Question] = {}

    async def getaddrinfo(  # noqa: PLR0917 - trio's order
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,  # noqa: A002 - trio's name
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As ``socket.getaddrinfo``.

        Raises:
            OSError: there is no such name, or no answer.
        """
        return await self._ask(socket.getaddrinfo, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """As ``socket.getnameinfo``."""
        name: tuple[str, str] = await self._ask(socket.getnameinfo, sockaddr, flags)
        return name

    async def _ask(self, *call: Any) -> Any:
        question = self._under_way.get(call)
        if question is None:
            if len(self._under_way) >= MOST_UNDER_WAY:
                raise socket.gaierror(socket.EAI_AGAIN, "too many names are being looked up")
            question = self._under_way[call] = _Question()
            trio.lowlevel.spawn_system_task(self._look_up, call, question)
        question.waiting += 1
        try:
            with trio.move_on_after(LOOKUP_S):
                await question.answered.wait()
        finally:
            question.waiting -= 1
        if question.failure is not None:
            raise type(question.failure)(*question.failure.args)  # each gets his own: it gathers a traceback
        if not question.answered.is_set():
            message = f"no name server has answered within {LOOKUP_S:g} s"
            raise socket.gaierror(socket.EAI_AGAIN, message)
        return question.answer

    async def _look_up(self, call: tuple[Any, ...], question: _Question) -> None:
        """A task of its own: those who ask come and go."""
        try:
            async with self._threads:
                if question.waiting:
                    question.answer = await trio.to_thread.run_sync(
                        *call, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                    )
        except (OSError, UnicodeError) as e:
            question.failure = e
        finally:
            del self._under_way[call]
            question.answered.set()
