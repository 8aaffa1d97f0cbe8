"""A manager over real gRPC that says what a test wants, and keeps what it hears."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from cafs.proto import manager_pb2
from cafs.proto.services import method_of
from tests.support.patience import PATIENCE_S

_ATTACH = method_of(manager_pb2.DESCRIPTOR, "Manager", "Attach")
_STREAMS = 8


class SayingManager:
    """For one service; what is said goes to its newest stream."""

    def __init__(self, *, reads: bool) -> None:
        self.port = 0
        self._reads = reads
        self.streams = 0
        """That the service has begun."""
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[manager_pb2.FromService] = queue.SimpleQueue()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def say(self, *messages: manager_pb2.ToService) -> None:
        for message in messages:
            self.say_bytes(message.SerializeToString())

    def say_bytes(self, content: bytes) -> None:
        self._outbox.put(content)

    def hear(self, holds: Callable[[manager_pb2.FromService], bool]) -> manager_pb2.FromService:
        """The next message of which this holds; others are passed over."""
        while not holds(message := self._heard.get(timeout=PATIENCE_S)):
            pass
        return message

    def attach(self, requests: Iterator[manager_pb2.FromService], context: Any) -> Iterator[bytes]:
        """The service's method."""
        self.streams += 1
        if self.streams > 1:
            self._outbox.put(None)  # of the stream before
        outbox = self._outbox = queue.SimpleQueue()
        context.add_callback(lambda: outbox.put(None))
        reading = ThreadPoolExecutor(1)
        if self._reads:
            reading.submit(self._read, requests)
        reading.shutdown(wait=False)
        yield from iter(outbox.get, None)

    def _read(self, requests: Iterator[manager_pb2.FromService]) -> None:
        for message in requests:
            self._heard.put(message)


@contextmanager
def saying_manager(*, reads: bool = True) -> Iterator[SayingManager]:
    """Serving while the context lasts; ``reads``: it takes what it is told."""
    made = SayingManager(reads=reads)
    handler = grpc.stream_stream_rpc_method_handler(made.attach, _ATTACH.parse_request, None)
    server = grpc.server(ThreadPoolExecutor(_STREAMS), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("cafs.manager.v1.Manager", {_ATTACH.name: handler}),)
    )
    made.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield made
    finally:
        server.stop(None).wait(PATIENCE_S)
