"""A service's side of the manager's stream over real gRPC: say something, wait for something.

Blocking: grpc.aio in two loops of one process, the manager's and the test's, logs errors of its own making.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc

from cafs.proto import health_pb2, manager_pb2
from cafs.proto.services import method_of, methods_of
from tests.support.patience import PATIENCE_S

_ATTACH = method_of(manager_pb2.DESCRIPTOR, "Manager", "Attach")
_HEALTH = {method.name: method for method in methods_of(health_pb2.DESCRIPTOR, "Health")}


class ServiceStream:
    """One ``Attach`` of one service."""

    def __init__(self, channel: grpc.Channel, host_id: str = "a" * 32) -> None:
        attach = channel.stream_stream(_ATTACH.path, _ATTACH.serialize_request, _ATTACH.parse_response)
        self.host_id = host_id
        self._outbox: queue.SimpleQueue[manager_pb2.FromService] = queue.SimpleQueue()
        self.call = attach(iter(self._outbox.get, None), timeout=PATIENCE_S)

    def say(self, **message: Any) -> None:
        self._outbox.put(manager_pb2.FromService(**message))

    def hello(self, **fields: Any) -> manager_pb2.Placed:
        """Come in; where it was placed."""
        self.send_hello(**fields)
        self.hear("welcome")
        placed: manager_pb2.Placed = self.hear("placed")
        return placed

    def send_hello(self, **fields: Any) -> None:
        usual: dict[str, Any] = {
            "protocol_version": 1,
            "host_id": self.host_id,
            "kind": manager_pb2.PEER,
            "hostname": "h",
            "address": "10.1.2.3:7000",
            "version": "test",
        }
        self.say(hello=manager_pb2.Hello(**{**usual, **fields}))

    def hear(self, kind: str) -> Any:
        """The next message of this kind; others are passed over."""
        for message in self.call:
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)
        raise AssertionError(f"ended while {kind} was awaited")

    def configured(self, version: int) -> Any:
        """The configuration of this version; the manager may send an older one first."""
        while (told := self.hear("configuration")).version != version:
            pass
        return told

    def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the manager ended the stream."""
        return end_of(self.call)

    def cancel(self) -> None:
        """Break it off."""
        self.call.cancel()


def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call ended, once it has; what comes until then is passed over."""
    with suppress(grpc.RpcError):
        for _ in call:
            pass
    return call.code(), call.details() or ""


@contextmanager
def channel_to(port: int) -> Iterator[grpc.Channel]:
    """A channel of its own; what it carries is broken off at the end."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield channel


def ask_health(channel: grpc.Channel, service: str = "") -> Any:
    """The status of a service."""
    check = _HEALTH["Check"]
    call = channel.unary_unary(check.path, check.serialize_request, check.parse_response)
    return call(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S).status


def until(holds: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    give_up = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)
