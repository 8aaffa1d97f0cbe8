"""A service's stream to the manager: it says who it is and that it lives, and hears what is decided for it.

Threads of its own carry the stream, so that programs in trio and in asyncio use the same; what is heard is
handed on in one of them. The stream is begun anew whenever it ends, by the next of the ways that there are
(``manager_ways``), after a pause that grows; where a better way opens, the next stream is up before the one
before is ended. Nobody waits for it: a manager that is away costs a line in the log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random, SystemRandom
from types import TracebackType
from typing import Any, Self

from cafs.daemon.grpc_client import LinkTls
from cafs.daemon.live_configuration import LiveConfiguration
from cafs.daemon.manager_stream import ManagerStream, Talk
from cafs.daemon.manager_ways import LOOK_S, Way, Ways
from cafs.daemon.reporting import Reporting
from cafs.daemon.tellable import tellable
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_PATIENT_S = 5.0
"""What starts together with its manager is there before it, and no fault."""
_END_S = 5.0
_MOST_UNDONE, _LOOK_UP_S = 32, 0.2
"""What is heard and not done yet: then nothing more is, and the manager has to wait."""
_SETTLE_S = 45.0
"""For a scheduler to find its way to the manager, and be welcomed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """Who this is: see ``Hello`` in proto/manager.proto."""

    host_id: str
    kind: int
    hostname: str
    address: str
    idc: str
    location: str
    version: str

    def hello(self, running: manager_pb2.Running) -> manager_pb2.FromService:
        """As a message."""
        hello = manager_pb2.Hello(
            protocol_version=1,
            host_id=self.host_id,
            kind=self.kind,  # type: ignore[arg-type]  # an enum's number
            hostname=self.hostname[:255],
            address=self.address,
            idc=self.idc,
            location=self.location,
            version=self.version,
            running=running,
        )
        return manager_pb2.FromService(hello=hello)


class ManagerLink:
    """See the module. A context manager: the stream is kept up while it lasts."""

    def __init__(
        self,
        addresses: Sequence[str],
        facts: ServiceFacts,
        tls: LinkTls | None,
        configuration: LiveConfiguration,
        hand_over: Callable[[Callable[[], None]], object],
        *,
        schedulers: Callable[[], Sequence[str]] = tuple,
        hear: Mapping[str, Callable[[Any], None]] | None = None,
        reporting: Reporting | None = None,
        longest_pause_s: float = _LONGEST_PAUSE_S,
        look_s: tuple[float, float] = LOOK_S,
    ) -> None:
        """
        Args:
            addresses: HOST:PORT of the manager's replicas.
            facts: Who this is.
            tls: For mTLS; None: plain.
            configuration: What obeys.
            hand_over: Has something called in the program's own thread, soon; does not wait for it.
            schedulers: HOST:PORT of those by way of which it may come, as of now. From any thread.
            hear: What is done with other messages, by the names of their fields in ``ToService``.
            reporting: What the manager is told of figures; None: nothing.
            longest_pause_s: Between streams, about.
            look_s: See ``Ways``.
        """
        self._ways = Ways(facts.host_id, addresses, Random(), look_s)  # noqa: S311 - spreads, guards nothing
        self._facts = facts
        self._tls = tls
        self._configuration = configuration
        self._hand_over = hand_over
        self._over = False
        self._schedulers = schedulers
        self._hear = hear or {}
        self._reporting = reporting
        self._longest_pause_s = longest_pause_s
        self._asked = False
        """The program's thread is about to look whether a report is due."""
        self._talk = Talk(self._hello, self._heard, self._report_in, self._ask_for_report)
        self._stop = threading.Event()
        self._turns = threading.Semaphore(_MOST_UNDONE)
        self._thread = threading.Thread(target=self._run, name="manager-link", daemon=True)
        self._lock = threading.Lock()
        self._stream: ManagerStream | None = None
        """On which is spoken."""
        self._begun: list[ManagerStream] = []
        """Those that have not ended."""
        self._told = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Say goodbye, as far as that goes at once, and end."""
        self._stop.set()
        was_up = self.is_up
        if (stream := self._stream) is not None:
            if was_up:
                self._report(stream, new_stream=True)
            stream.say(manager_pb2.FromService(leaving=manager_pb2.Leaving()))
            stream.say_no_more()
        self._thread.join(1.0 if was_up else 0.0)
        with self._lock:
            for each in self._begun:
                each.abort()
        self._thread.join(_END_S)
        self._over = True
        if self._reporting is not None:
            self._reporting.keep()

    @property
    def is_up(self) -> bool:
        """The manager has us."""
        return self.way is not None

    @property
    def way(self) -> Way | None:
        """By which the manager has us."""
        stream = self._stream
        return stream.way if stream is not None and stream.up and not stream.ended.is_set() else None

    def say(self, message: manager_pb2.FromService) -> None:
        """On the present stream; without one it is lost, and never waits."""
        if (stream := self._stream) is not None:
            stream.say(message)

    # Streams, one after the other. In the link's thread.

    def _run(self) -> None:
        pause_s, began = _PAUSE_S, time.monotonic()
        while not self._stop.is_set():
            stream = self._follow(self._begin(self._ways.next(self._schedulers(), time.monotonic())))
            if self._stop.is_set():
                return
            if stream.up:
                pause_s = _PAUSE_S
            else:
                self._ways.failed(stream.way, time.monotonic(), for_long=stream.passes_nobody)
            self._tell_of_end(stream, early=time.monotonic() - began < _PATIENT_S)
            self._stop.wait(pause_s * (0.5 + SystemRandom().random()))
            pause_s = min(2 * pause_s, self._longest_pause_s)

    def _begin(self, way: Way) -> ManagerStream:
        with self._lock:
            stream = ManagerStream(way, self._tls, self._talk)
            self._begun = [each for each in self._begun if not each.ended.is_set()] + [stream]
            if not self.is_up:
                self._stream = stream
            if self._stop.is_set():
                stream.abort()
        return stream

    def _follow(self, stream: ManagerStream) -> ManagerStream:
        """Until it has ended, or else the one that took its place; which one that was."""
        _settle(stream)
        if stream.up:
            self._ways.holds()
        while stream.up and not stream.ended.wait(self._ways.look_in()):
            stream = self._look_for_better(stream)
        return stream

    def _look_for_better(self, stream: ManagerStream) -> ManagerStream:
        for way in self._ways.better(stream.way, self._schedulers(), time.monotonic()):
            if self._stop.is_set() or stream.ended.is_set():
                break
            other = self._begin(way)
            _settle(other)
            if other.up:
                self._ways.holds()
                stream.abort()
                return other
            log.debug("manager %s: no way to it: %s", way, other.why)
            self._ways.found_no_better(way, time.monotonic(), for_long=other.passes_nobody)
        return stream

    def _tell_of_end(self, stream: ManagerStream, *, early: bool) -> None:
        way, why = stream.way, stream.why
        if way.by_scheduler:  # there are others
            (log.info if stream.up else log.debug)("manager, by scheduler %s: %s", way.address, why)
            return
        early = early and why.startswith("UNAVAILABLE")
        tells = stream.up or not (self._told or early)
        (log.warning if tells else log.debug)("manager %s: %s", way.address, why)
        self._told |= tells

    # What is said and heard

    def _hello(self) -> manager_pb2.FromService:
        return self._facts.hello(self._configuration.running())

    def _heard(self, stream: ManagerStream, message: manager_pb2.ToService) -> None:
        """In a stream's thread."""
        name = message.WhichOneof("message") or ""
        if name == "welcome":
            self._stream, self._told = stream, True
            self._have_done(partial(self._report, stream, new_stream=True))
            log.info("the manager has us: replica %s", tellable(message.welcome.replica_id))
        if name == "configuration":
            self._have_done_in_turn(partial(self._obey, message.configuration, stream), stream)
        elif name == "counted" and self._reporting is not None:
            counted = partial(self._counted, self._reporting, message.counted, stream)
            self._have_done_in_turn(counted, stream)
        elif (heard := self._hear.get(name)) is not None:
            self._have_done_in_turn(partial(heard, getattr(message, name)), stream)

    def _have_done_in_turn(self, work: Callable[[], None], stream: ManagerStream) -> None:
        """The same, once there is room: a busy program slows the stream, and not its memory."""
        while not self._turns.acquire(timeout=_LOOK_UP_S):
            if self._stop.is_set() or stream.ended.is_set():
                return

        def do() -> None:
            try:
                work()
            finally:
                self._turns.release()

        self._have_done(do)

    def _have_done(self, work: Callable[[], None]) -> None:
        """In the program's thread, unless the link is over by then."""
        self._hand_over(partial(self._do, work))

    def _do(self, work: Callable[[], None]) -> None:
        if self._over:
            return
        try:
            work()
        except Exception:  # it would end the program
            log.exception("a mistake at what the manager said")

    def _obey(self, told: manager_pb2.Configuration, stream: ManagerStream) -> None:
        """In the program's thread."""
        try:
            running = self._configuration.take(told)
        except Exception:
            log.exception("a mistake at configuration %d of cluster %d", told.version, told.cluster_id)
            running = self._configuration.running("a mistake in the service: its log says more")
        stream.say(manager_pb2.FromService(running=running))

    def _report(self, stream: ManagerStream, *, new_stream: bool = False) -> None:
        """In the program's thread."""
        reporting, self._asked = self._reporting, False
        if reporting is None:
            return
        if new_stream:
            reporting.on_stream()
        try:
            message = reporting.due()
        except Exception:
            log.exception("a mistake in a report of figures")
            return
        if message is None:
            stream.look_again()
        else:
            stream.say(message)

    @staticmethod
    def _counted(reporting: Reporting, told: manager_pb2.Counted, stream: ManagerStream) -> None:
        """In the program's thread."""
        reporting.counted(told)
        stream.look_again()

    def _report_in(self, stream: ManagerStream) -> float:
        if self._reporting is None or stream is not self._stream or not stream.up or self._asked:
            return stream.alive_every_s  # whoever looks says when to look again
        return self._reporting.due_in()

    def _ask_for_report(self, stream: ManagerStream) -> None:
        self._asked = True
        self._have_done(partial(self._report, stream))


def _settle(stream: ManagerStream) -> None:
    """Wait until it is up, or has ended; a scheduler may not know for long."""
    stream.settled.wait(_SETTLE_S if stream.way.by_scheduler else None)
    if not stream.settled.is_set():
        stream.abort()
        stream.settled.wait(_END_S)
