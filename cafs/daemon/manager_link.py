"""A service's stream to the manager: it says who it is and that it lives, and hears what is decided for it.

A thread of its own carries the stream, so that programs in trio and in asyncio use the same; what is heard
is handed on in that thread. The stream is begun anew whenever it ends, with the next of the addresses,
after a pause that grows. Nobody waits for it: a manager that is away costs a line in the log.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import SystemRandom
from types import TracebackType
from typing import Any, Self

import grpc

from cafs.daemon.grpc_client import LinkTls, open_channel
from cafs.daemon.live_configuration import LiveConfiguration
from cafs.daemon.reporting import Reporting
from cafs.errors import CafsError
from cafs.proto import manager_pb2
from cafs.proto.services import methods_of

log = logging.getLogger(__name__)

_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_PATIENT_S = 5.0
"""What starts together with its manager is there before it, and no fault."""
_END_S = 5.0
_FIRST_ALIVE_S = 10.0
"""Until the manager has said how often."""
_LEAST_WAIT_S = 0.05
_ALIVE = manager_pb2.FromService(alive=manager_pb2.Alive())
_LOOK = manager_pb2.FromService()
"""In an outbox: not said, but it is looked again when the next report is due."""
(_ATTACH,) = methods_of(manager_pb2.DESCRIPTOR, "Manager")


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
        hear: Mapping[str, Callable[[Any], None]] | None = None,
        reporting: Reporting | None = None,
    ) -> None:
        """
        Args:
            addresses: HOST:PORT of the manager's replicas.
            facts: Who this is.
            tls: For mTLS; None: plain.
            configuration: What obeys.
            hand_over: Has something called in the program's own thread, soon; does not wait for it.
            hear: What is done with other messages, by the names of their fields in ``ToService``.
            reporting: What the manager is told of figures; None: nothing.
        """
        self._addresses = addresses
        self._facts = facts
        self._tls = tls
        self._configuration = configuration
        self._hand_over = hand_over
        self._hear = hear or {}
        self._reporting = reporting
        self._asked = False
        """The program's thread is about to look whether a report is due."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="manager-link", daemon=True)
        self._lock = threading.Lock()
        self._outbox: queue.SimpleQueue[manager_pb2.FromService | None] = queue.SimpleQueue()
        self._abort: Callable[[], Any] = lambda: None
        self._alive_every_s = _FIRST_ALIVE_S
        self._up = False
        self._told = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Say goodbye, as far as that goes at once, and end."""
        self._stop.set()
        if self._reporting is not None and self._up:
            self._report(self._outbox, new_stream=True)
        self.say(manager_pb2.FromService(leaving=manager_pb2.Leaving()))
        self._outbox.put(None)
        self._thread.join(1.0 if self._up else 0.0)
        with self._lock:
            self._abort()
        self._thread.join(_END_S)
        if self._reporting is not None:
            self._reporting.keep()

    @property
    def is_up(self) -> bool:
        """The manager has us."""
        return self._up

    def say(self, message: manager_pb2.FromService) -> None:
        """On the present stream; without one it is lost, and never waits."""
        self._outbox.put(message)

    def _run(self) -> None:
        pause_s, turn, began = _PAUSE_S, 0, time.monotonic()
        while not self._stop.is_set():
            address = self._addresses[turn % len(self._addresses)]
            turn += 1
            why = self._one_stream(address)
            if self._stop.is_set():
                return
            was_up, self._up = self._up, False
            if was_up:
                pause_s = _PAUSE_S
            early = why.startswith("UNAVAILABLE") and time.monotonic() - began < _PATIENT_S
            tells = was_up or not (self._told or early)
            (log.warning if tells else log.debug)("manager %s: %s", address, why)
            self._told |= tells
            self._stop.wait(pause_s * (0.5 + SystemRandom().random()))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _one_stream(self, address: str) -> str:
        """Until it ends; why it did."""
        outbox: queue.SimpleQueue[manager_pb2.FromService | None] = queue.SimpleQueue()
        self._outbox = outbox
        try:
            with open_channel(address, self._tls) as channel:
                self._carry(channel, outbox)
        except grpc.RpcError as e:
            return f"{e.code().name} {e.details()}" if isinstance(e, grpc.Call) else type(e).__name__
        except CafsError as e:
            return str(e)
        except Exception:
            log.exception("a mistake in the link to the manager")
            return "the stream was ended"
        finally:
            outbox.put(None)
        return "the stream ended"

    def _carry(
        self, channel: grpc.Channel, outbox: queue.SimpleQueue[manager_pb2.FromService | None]
    ) -> None:
        attach = channel.stream_stream(_ATTACH.path, _ATTACH.serialize_request, _ATTACH.parse_response)
        call = attach(self._messages(outbox))
        self._abort_with(call.cancel)
        for message in call:
            if message.WhichOneof("message") == "welcome":
                self._alive_every_s = max(0.05, message.welcome.alive_every_ms / 1000)
                self._up = self._told = True
                outbox.put(_ALIVE)  # the next one comes as often as it wants
                self._hand_over(partial(self._report, outbox, new_stream=True))
                log.info("the manager has us: replica %s", message.welcome.replica_id)
            elif message.WhichOneof("message") == "configuration":
                self._hand_over(partial(self._obey, message.configuration, outbox))
            elif message.WhichOneof("message") == "counted" and self._reporting is not None:
                self._hand_over(partial(self._counted, self._reporting, message.counted, outbox))
            elif (heard := self._hear.get(message.WhichOneof("message") or "")) is not None:
                self._hand_over(partial(heard, getattr(message, message.WhichOneof("message") or "")))

    def _obey(
        self,
        told: manager_pb2.Configuration,
        outbox: queue.SimpleQueue[manager_pb2.FromService | None],
    ) -> None:
        """In the program's thread."""
        try:
            running = self._configuration.take(told)
        except Exception:
            log.exception("a mistake at configuration %d of cluster %d", told.version, told.cluster_id)
            running = self._configuration.running("a mistake in the service: its log says more")
        outbox.put(manager_pb2.FromService(running=running))

    def _report(
        self, outbox: queue.SimpleQueue[manager_pb2.FromService | None], *, new_stream: bool = False
    ) -> None:
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
        outbox.put(_LOOK if message is None else message)

    @staticmethod
    def _counted(
        reporting: Reporting,
        told: manager_pb2.Counted,
        outbox: queue.SimpleQueue[manager_pb2.FromService | None],
    ) -> None:
        """In the program's thread."""
        reporting.counted(told)
        outbox.put(_LOOK)

    def _abort_with(self, abort: Callable[[], Any]) -> None:
        with self._lock:
            self._abort = abort
            if self._stop.is_set():
                abort()

    def _messages(
        self, outbox: queue.SimpleQueue[manager_pb2.FromService | None]
    ) -> Iterator[manager_pb2.FromService]:
        """In gRPC's own thread. What is said is a sign of life; in between there is ``Alive``."""
        yield self._facts.hello(self._configuration.running())
        said_at = time.monotonic()
        while True:
            alive_in_s = said_at + self._alive_every_s - time.monotonic()
            message: manager_pb2.FromService | None = _ALIVE
            try:
                message = outbox.get(timeout=max(_LEAST_WAIT_S, min(alive_in_s, self._report_in_s())))
            except queue.Empty:
                self._ask_for_report(outbox)
                if time.monotonic() < said_at + self._alive_every_s:
                    continue
            if message is None:
                return
            if message is _LOOK:
                continue
            yield message
            said_at = time.monotonic()

    def _report_in_s(self) -> float:
        if self._reporting is None or not self._up or self._asked:
            return self._alive_every_s  # whoever looks says when to look again
        return self._reporting.due_in()

    def _ask_for_report(self, outbox: queue.SimpleQueue[manager_pb2.FromService | None]) -> None:
        if not self._report_in_s():
            self._asked = True
            self._hand_over(partial(self._report, outbox))
