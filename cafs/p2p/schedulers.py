"""The schedulers of this host, and which of them schedules which download.

Each scheduler has a stream that is begun anew whenever it ends; the manager may name others at any time. A
task's scheduler is the first one that answers, in the order of a rendezvous hash of task and address: all
hosts with the same list meet at the same one. When one comes or goes, downloads move. Belongs to the trio
thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import blake3
import trio

from cafs.core.swarm.ids import TaskId
from cafs.core.swarm.layout import Bitmap
from cafs.core.swarm.messages import FinishedPiece, ForgetReason, Forgotten, SchedulerLost
from cafs.core.swarm.task import TaskSpec
from cafs.errors import CafsError, ProtocolError, leading_error
from cafs.p2p import scheduler_messages as messages
from cafs.p2p.scheduler_messages import (
    ForPeer,
    ForTask,
    Heard,
    HeldTask,
    HostFacts,
    LimitsSet,
    SeedAsked,
    Welcomed,
)
from cafs.p2p.swarm_session import Hear, Session
from cafs.proto import p2p_pb2

log = logging.getLogger(__name__)

WELCOME_S = 10.0
AGAIN_S, LONGEST_AGAIN_S = 0.25, 10.0
"""Between streams to one scheduler: many hosts come back at once after its restart."""
BEGIN_ANEW_S = 5.0
"""A stream that says too little of what is held by now is not begun anew sooner than that."""
FIRST_WORD_S = 3.0
"""For schedulers to answer after the start, before downloads do without."""


class Host(Protocol):
    """What schedulers want to know of the host, and tell it."""

    def facts(self) -> HostFacts: ...

    def held(self) -> Iterable[HeldTask]:
        """The most recently used first."""
        ...

    def alive(self) -> p2p_pb2.FromHost: ...

    def on_seed(self, spec: TaskSpec) -> None: ...

    def on_forget(self, task: TaskId, why: ForgetReason) -> None: ...

    def on_limits(self, changes: dict[str, int]) -> None: ...


class Outbox(Protocol):
    """What one stream says."""

    overrun: bool

    def send(self, message: p2p_pb2.FromHost) -> None: ...


class Converse(Protocol):
    """Carries a stream; see ``scheduler_link``."""

    async def __call__(
        self,
        address: str,
        outbox: Outbox,
        reached: Callable[[], None],
        heard: Callable[[p2p_pb2.ToHost], None],
    ) -> None: ...


@dataclass(eq=False)
class Line:
    """The way to one scheduler."""

    address: str
    outbox: Outbox | None = None
    up: bool = False
    """It has taken us in."""
    tried: bool = False
    scheduler_id: str = ""
    alive_every_s: float = 10.0
    begun_at: float = 0.0
    told: dict[TaskId, int] = field(default_factory=dict)
    """What the hello of this stream said of tasks: bitmaps."""
    welcomed: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope | None = None
    life: trio.CancelScope = field(default_factory=trio.CancelScope)
    """Until it is asked no more."""

    def send(self, message: p2p_pb2.FromHost) -> None:
        """See ``swarm_session.Line``."""
        if self.outbox is not None:
            self.outbox.send(message)

    def begin_anew(self) -> None:
        """End this stream; the next one says what is held by now."""
        if self.scope is not None:
            self.scope.cancel()


class Schedulers:
    """See the module."""

    def __init__(
        self,
        addresses: Sequence[str],
        host: Host,
        converse: Converse | None,
        new_outbox: Callable[[], Outbox] | None,
        *,
        more_to_come: bool = False,
    ) -> None:
        """
        Args:
            addresses: HOST:PORT of those that are known.
            host: This one.
            converse: Carries a stream; None where there will never be any: every download is on its own.
            new_outbox: Makes what a stream says.
            more_to_come: Others may be named by ``use``, soon after the start.
        """
        self._host = host
        self._converse = converse
        self._new_outbox = new_outbox
        self._lines = [Line(address) for address in addresses]
        self._sessions: dict[TaskId, list[Session]] = {}
        self._waiting_for_first_word = bool(addresses) or more_to_come
        self._nursery: trio.Nursery | None = None

    @property
    def connected(self) -> list[str]:
        """Schedulers that answer."""
        return [line.address for line in self._lines if line.up]

    @property
    def addresses(self) -> list[str]:
        """Of all, whether they answer or not."""
        return [line.address for line in self._lines]

    def asked(self) -> list[str]:
        """Those that answer; if none does, all. From any thread."""
        return self.connected or self.addresses

    def use(self, addresses: Sequence[str]) -> None:
        """These from now on. Downloads of those that are left out move."""
        for line in [line for line in self._lines if line.address not in addresses]:
            self._lines.remove(line)
            line.send(messages.leaving())
            line.life.cancel()
        for address in dict.fromkeys(addresses):
            if address not in self.addresses:
                self._lines.append(Line(address))
                if self._nursery is not None:
                    self._nursery.start_soon(self._keep_up, self._lines[-1])
        if not self._lines:
            self._waiting_for_first_word = False
        self._assign()

    async def run(self) -> None:
        """Keep up all streams, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            for line in self._lines:
                self._nursery.start_soon(self._keep_up, line)
            await trio.sleep(FIRST_WORD_S)
            self._waiting_for_first_word = False
            self._assign()
            await trio.sleep_forever()  # there may be none yet: others are named at any time

    def join(self, spec: TaskSpec, hear: Hear, *, whole: bool = True, chunks_only: bool = False) -> Session:
        """Begin a download of a task, or an exchange of a blob's chunks.

        Args:
            spec: What it is.
            hear: Called with what the scheduler says, and with ``SchedulerLost`` when none does; never
                before this returns.
            whole: All of it is wanted.
            chunks_only: See ``PeerRegister``.
        """
        session = Session(spec, hear, self._end, whole=whole, chunks_only=chunks_only)
        self._sessions.setdefault(spec.task_id, []).append(session)
        line = self._line_for(spec.task_id)
        if line is not None:
            session.move(line)
        return session

    def is_lost(self, session: Session) -> bool:
        """No scheduler answers, and none is expected to in a moment."""
        return not session.scheduled and not self._waiting_for_first_word

    def drop(self, tasks: Sequence[TaskId]) -> None:
        """Nothing of these is here any more."""
        for line in self._lines:
            if line.up:
                line.send(messages.dropped(tasks))

    def say_goodbye(self) -> None:
        """This host ends: nobody should ask it for anything new."""
        for line in self._lines:
            line.send(messages.leaving())

    def _end(self, session: Session) -> None:
        sessions = self._sessions.get(session.task, [])
        if session in sessions:
            sessions.remove(session)
        if not sessions:
            self._sessions.pop(session.task, None)

    # Streams

    async def _keep_up(self, line: Line) -> None:
        with line.life:
            await self._begin_ever_anew(line)

    async def _begin_ever_anew(self, line: Line) -> None:
        pause_s = AGAIN_S
        while True:
            try:
                await self._one_stream(line)
                pause_s = AGAIN_S
            except Exception as group:
                error = leading_error(group)
                if not isinstance(error, CafsError):
                    log.exception("the link to scheduler %s failed in an unforeseen way", line.address)
                pause_s = AGAIN_S if line.up else min(pause_s * 2, LONGEST_AGAIN_S)
                (log.warning if line.up or not line.tried else log.debug)("%s", error)
            finally:
                line.up, line.tried, line.outbox = False, True, None
                self._assign()
            await trio.sleep(pause_s)

    async def _one_stream(self, line: Line) -> None:
        """Carry a stream until it ends or we begin it anew."""
        assert self._new_outbox is not None
        assert self._converse is not None
        outbox, line.welcomed = self._new_outbox(), trio.Event()
        with trio.CancelScope() as line.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stay_alive, line)
                await self._converse(
                    line.address,
                    outbox,
                    partial(self._say_hello, line, outbox),
                    partial(self._heard, line),
                )

    def _say_hello(self, line: Line, outbox: Outbox) -> None:
        held = list(self._host.held())
        line.outbox, line.begun_at = outbox, trio.current_time()
        line.told = {task.spec.task_id: task.have.bits for task in held}
        line.send(messages.hello(self._host.facts(), held))

    async def _stay_alive(self, line: Line) -> None:
        with trio.move_on_after(WELCOME_S):
            await line.welcomed.wait()
        if not line.up:
            raise ProtocolError(f"scheduler {line.address}: no welcome within {WELCOME_S:g} s")
        while True:
            await trio.sleep(line.alive_every_s)
            line.send(self._host.alive())
            if line.outbox is None or line.outbox.overrun:
                raise ProtocolError(f"scheduler {line.address} takes nothing any more")

    # Downloads and their schedulers

    def _line_for(self, task: TaskId) -> Line | None:
        up = [line for line in self._lines if line.up]
        return max(up, key=lambda line: _weight(task, line.address), default=None)

    def _assign(self) -> None:
        """Every download to the first scheduler that answers."""
        stale: set[Line] = set()
        held: dict[TaskId, HeldTask] | None = None
        for session in [session for sessions in self._sessions.values() for session in sessions]:
            line = self._line_for(session.task)
            if line is None:
                if session.scheduled:
                    session.move(None)  # its scheduler knows nothing of it when it answers again
                if not self._waiting_for_first_word:
                    session.hear(SchedulerLost())
            elif session.line is not line:
                held = held if held is not None else {task.spec.task_id: task for task in self._host.held()}
                session.move(line)
                if self._is_behind(line, session, held.get(session.task)):
                    stale.add(line)
        for line in stale:
            if line.begun_at + BEGIN_ANEW_S < trio.current_time():
                line.begin_anew()

    def _is_behind(self, line: Line, session: Session, held: HeldTask | None) -> bool:
        """Whether its hello is older than some of what we hold; that is told now, and may not be believed."""
        if held is None or not (more := held.have.bits & ~line.told.get(session.task, 0)):
            return False
        news = Bitmap(more)
        digests = zip(held.have, held.digests, strict=True)
        session.tell_pieces([FinishedPiece(n, digest, None, 0) for n, digest in digests if n in news])
        return True

    # What they say

    def _heard(self, line: Line, message: p2p_pb2.ToHost) -> None:
        try:
            heard = messages.parse(message)
        except ProtocolError as e:
            log.warning("scheduler %s: %s", line.address, e)
            return
        if heard is not None:
            self._act(line, heard)

    def _act(self, line: Line, heard: Heard) -> None:
        match heard:
            case Welcomed():
                line.up, line.scheduler_id = True, heard.scheduler_id
                line.alive_every_s = heard.alive_every_s
                line.welcomed.set()
                log.info("scheduler %s answers", line.address)
                self._assign()
            case SeedAsked():
                self._host.on_seed(heard.spec)
            case LimitsSet():
                self._host.on_limits(heard.changes)
            case ForTask(task=task, event=event):
                for session in list(self._sessions.get(task, ())):
                    if session.line is line:
                        session.hear(event)
                if isinstance(event, Forgotten):
                    self._host.on_forget(task, event.why)
            case ForPeer(peer=peer, event=event):
                for session in [s for sessions in self._sessions.values() for s in sessions]:
                    if session.line is line and session.peer_id == peer:
                        session.hear(event)


def _weight(task: TaskId, address: str) -> bytes:
    return blake3.blake3(f"{task}|{address}".encode()).digest(8)
