"""Schedulers that pass hosts on to a manager, as processes that may be killed; a relay of a test's own."""

from __future__ import annotations

import queue
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx2

from cafs.proto import manager_pb2
from cafs.proto.services import method_of
from tests.support.manager_client import end_of, until
from tests.support.patience import PATIENCE_S
from tests.support.ports import chosen_port
from tests.support.program import cafs_command

_RELAY = method_of(manager_pb2.DESCRIPTOR, "Manager", "Relay")


@dataclass
class SchedulerProcess:
    """``cafs scheduler``, at the same port each time it is started."""

    folder: Path
    arguments: tuple[str, ...]
    port: int = field(default_factory=chosen_port)
    process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _metrics: int = field(default_factory=chosen_port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """And wait until it serves."""
        command = cafs_command(
            "scheduler", f"--listen={self.address}", f"--metrics=127.0.0.1:{self._metrics}",
            f"--set=cache_dir={self.folder}", *self.arguments,
        )  # fmt: skip
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(lambda: self._figure("relayed_hosts") is not None)

    @property
    def hosts(self) -> int:
        """That it passes on."""
        return self._figure("relayed_hosts") or 0

    def _figure(self, name: str) -> int | None:
        with suppress(httpx2.TransportError):
            text = httpx2.get(f"http://127.0.0.1:{self._metrics}/metrics", trust_env=False).text
            found = re.search(rf"^cafs_scheduler_{name} (\d+)$", text, re.MULTILINE)
            return int(found[1]) if found else None
        return None

    def kill(self) -> None:
        """As a crash ends it."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """In order."""
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0


@contextmanager
def scheduler_process(folder: Path, *arguments: str) -> Iterator[SchedulerProcess]:
    """Running; ended whatever happens."""
    made = SchedulerProcess(folder, arguments)
    made.start()
    try:
        yield made
    finally:
        made.kill()


class RelayStream:
    """One ``Relay``, that says what a test wants."""

    def __init__(self, channel: grpc.Channel, host_id: str, address: str) -> None:
        relay = channel.stream_stream(_RELAY.path, _RELAY.serialize_request, _RELAY.parse_response)
        self._outbox: queue.SimpleQueue[manager_pb2.FromScheduler | None] = queue.SimpleQueue()
        self.call = relay(iter(self._outbox.get, None), timeout=PATIENCE_S)
        relaying = manager_pb2.Relaying(host_id=host_id, address=address)
        self._outbox.put(manager_pb2.FromScheduler(relaying=relaying))
        self._heard: list[manager_pb2.Word] = []

    def taken(self) -> None:
        """The manager takes it."""
        next(self.call)

    def say(self, number: int, message: bytes = b"", **said: Any) -> None:
        """Of a host, ``said`` being a message to the manager."""
        message = message or manager_pb2.FromService(**said).SerializeToString()
        self.send(manager_pb2.Word(stream=number, message=message))

    def send(self, *words: manager_pb2.Word) -> None:
        self._outbox.put(manager_pb2.FromScheduler(words=words))

    def hello(self, number: int, host_id: str, **fields: Any) -> None:
        usual: dict[str, Any] = {
            "protocol_version": 1, "host_id": host_id, "kind": manager_pb2.PEER, "hostname": "h",
            "address": "10.1.2.3:7000", "version": "test",
        }  # fmt: skip
        self.say(number, hello=manager_pb2.Hello(**{**usual, **fields}))

    def hear(self, number: int, kind: str) -> Any:
        """The next message of this kind to a host; what else is told it before is passed over."""
        while (told := self._next(number)).WhichOneof("what") == "message":
            message = manager_pb2.ToService.FromString(told.message)
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)
        raise AssertionError(f"ended while {kind} was awaited: {told.ended.why}")

    def host_ended(self, number: int) -> tuple[int, str]:
        """How the manager ended a host's stream."""
        while (told := self._next(number)).WhichOneof("what") != "ended":
            pass
        return told.ended.code, told.ended.why

    def _next(self, number: int) -> manager_pb2.Word:
        while True:
            for place, word in enumerate(self._heard):
                if word.stream == number:
                    return self._heard.pop(place)
            self._heard += next(self.call).words

    def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the manager ended the relay."""
        return end_of(self.call)

    def cancel(self) -> None:
        """Break it off."""
        self.call.cancel()
