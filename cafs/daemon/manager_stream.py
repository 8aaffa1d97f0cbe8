"""One stream of a service to the manager, in a thread of its own: messages both ways, and signs of life."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError

from cafs.daemon.grpc_client import LinkTls, open_channel
from cafs.daemon.manager_ways import Way
from cafs.errors import CafsError, ProtocolError
from cafs.proto import manager_pb2
from cafs.proto.services import method_of

log = logging.getLogger(__name__)

_FIRST_ALIVE_S = 10.0
"""Until the manager has said how often."""
_LEAST_WAIT_S, _LONGEST_WAIT_S = 0.05, 300.0
"""Between signs of life, whatever the manager says."""
MOST_WAITING = 512
"""Messages that the manager has not taken: then the stream is given up, and another one begun."""
_ALIVE = manager_pb2.FromService(alive=manager_pb2.Alive())
_ATTACH = method_of(manager_pb2.DESCRIPTOR, "Manager", "Attach")


@dataclass(frozen=True, slots=True)
class Talk:
    """What is said and heard. Called in threads of the stream."""

    hello: Callable[[], manager_pb2.FromService]
    hear: Callable[[ManagerStream, manager_pb2.ToService], None]
    report_in: Callable[[ManagerStream], float]
    """Seconds until a report may be due."""
    ask_for_report: Callable[[ManagerStream], None]
    """It is: somebody is to see whether there is one, and ``say`` it, or else ``look_again``."""


class ManagerStream:
    """See the module. Begins at once."""

    def __init__(self, way: Way, tls: LinkTls | None, talk: Talk) -> None:
        self.way = way
        self.up = False
        """The manager has us, or had."""
        self.settled = threading.Event()
        """It is up, or has ended."""
        self.ended = threading.Event()
        self.why = "the stream ended"
        """Once it has."""
        self.overrun = False
        """More was to be said than the manager takes."""
        self.alive_every_s = _FIRST_ALIVE_S
        self._tls = tls
        self._talk = talk
        self._outbox: queue.SimpleQueue[manager_pb2.FromService | bool | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._aborted = False
        self._abort: Callable[[], object] = lambda: None
        threading.Thread(target=self._run, name="manager-stream", daemon=True).start()

    def say(self, message: manager_pb2.FromService) -> None:
        """Never waits."""
        if self._outbox.qsize() < MOST_WAITING:
            self._outbox.put(message)
        elif not self.overrun:
            self.overrun = True
            self.abort()

    def look_again(self) -> None:
        """Another time is the one for the next report."""
        if self._outbox.qsize() < MOST_WAITING:  # else whoever says it looks by himself
            self._outbox.put(True)

    def say_no_more(self) -> None:
        """That was the last word; the manager ends the stream then."""
        self._outbox.put(None)

    def abort(self) -> None:
        """Break it off."""
        with self._lock:
            self._aborted = True
            self._abort()

    @property
    def passes_nobody(self) -> bool:
        """A scheduler does not do such a thing."""
        return self.why.startswith(grpc.StatusCode.UNIMPLEMENTED.name)

    def _run(self) -> None:
        try:
            with open_channel(self.way.address, self._tls) as channel:
                self._carry(channel)
        except grpc.RpcError as e:
            self.why = f"{e.code().name} {e.details()}" if isinstance(e, grpc.Call) else type(e).__name__
            if self.overrun:
                self.why = "it does not take what is said"
        except CafsError as e:
            self.why = str(e)
        except Exception:  # it ends this stream, and the link begins another one
            log.exception("a mistake in the link to the manager")
        finally:
            self._outbox.put(None)
            self.ended.set()
            self.settled.set()

    def _carry(self, channel: grpc.Channel) -> None:
        attach = channel.stream_stream(_ATTACH.path, _ATTACH.serialize_request, None)
        call = attach(self._messages())
        with self._lock:
            self._abort = call.cancel
            if self._aborted:
                call.cancel()  # type: ignore[no-untyped-call]  # grpc-stubs forgot its return type
        for content in call:
            message = _parse(content)
            if message.WhichOneof("message") == "welcome":
                wanted_s = message.welcome.alive_every_ms / 1000
                self.alive_every_s = min(max(_LEAST_WAIT_S, wanted_s), _LONGEST_WAIT_S)
                self.up = True
                self.say(_ALIVE)  # the next one comes as often as it wants
            self._talk.hear(self, message)
            if self.up:
                self.settled.set()

    def _messages(self) -> Iterator[manager_pb2.FromService]:
        """In gRPC's own thread. What is said is a sign of life; in between there is ``Alive``."""
        yield self._talk.hello()
        said_at = time.monotonic()
        while True:
            alive_in_s = said_at + self.alive_every_s - time.monotonic()
            message: manager_pb2.FromService | bool | None = _ALIVE
            try:
                wait_s = max(_LEAST_WAIT_S, min(alive_in_s, self._talk.report_in(self)))
                message = self._outbox.get(timeout=wait_s)
            except queue.Empty:
                if not self._talk.report_in(self):
                    self._talk.ask_for_report(self)
                if time.monotonic() < said_at + self.alive_every_s:
                    continue
            if message is None:
                return
            if isinstance(message, bool):
                continue
            yield message
            said_at = time.monotonic()


def _parse(content: bytes) -> manager_pb2.ToService:
    """Not by gRPC, which takes bytes that are no message for our mistake."""
    try:
        return manager_pb2.ToService.FromString(content)
    except DecodeError:
        raise ProtocolError("it said what is no message of this protocol") from None
