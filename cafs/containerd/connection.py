"""One connection to containerd: where trio and grpc meet on the client's side.

grpc works in threads of its own. A call is started with ``future`` and its end wakes the trio task that waits
for it, so a call costs no thread of ours; a cancelled task cancels its call. Only streams, which grpc offers
as blocking iterators, are read in worker threads (see ``stream``). Calls may be made concurrently.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import trio
from google.protobuf.descriptor import FileDescriptor

from cafs.containerd.errors import error_of
from cafs.errors import StateError
from cafs.proto.services import Method, methods_of

CALL_S = 60.0
"""No call that only reads or writes metadata takes longer."""
_CONNECT_S = 5.0
_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),  # as containerd's own
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


class Service:
    """One service of containerd, with its methods by name."""

    def __init__(self, connection: Connection, file: FileDescriptor, name: str) -> None:
        self._connection = connection
        self._methods = {method.name: method for method in methods_of(file, name)}

    async def call(
        self, name: str, request: Any, what: str, *, lease: str | None = None, within_s: float = CALL_S
    ) -> Any:
        """See ``Connection.call``."""
        return await self._connection.call(self._methods[name], request, what, lease=lease, within_s=within_s)

    async def collect(self, name: str, request: Any, what: str, *, within_s: float) -> list[Any]:
        """All answers of a call with a stream of them; arguments and errors as of ``Connection.call``."""
        call = self.stream(name, request, lease=None, within_s=within_s)
        try:
            return await trio.to_thread.run_sync(list, call, abandon_on_cancel=True)
        except grpc.RpcError as e:
            raise self._connection.translated(e, what) from e
        finally:
            call.cancel()  # which also wakes a thread that still waits

    def stream(self, name: str, request: Any, *, lease: str | None, within_s: float) -> Any:
        """Start a call with a stream of answers; answers grpc's call object, whose iteration blocks.

        ``request`` is a message; where the requests stream too, an iterator for a thread of grpc's.
        """
        return self._connection.stream(self._methods[name], request, lease=lease, within_s=within_s)


class Connection:
    """Calls to one containerd within one of its namespaces."""

    def __init__(self, address: Path, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self._channel = grpc.insecure_channel(f"unix:{address}", options=_OPTIONS)
        self._token = trio.lowlevel.current_trio_token()

    def service(self, file: FileDescriptor, name: str) -> Service:
        """The client of one service."""
        return Service(self, file, name)

    async def call(
        self, method: Method, request: Any, what: str, *, lease: str | None, within_s: float
    ) -> Any:
        """One request and its answer.

        Args:
            method: Of the API.
            request: Its message.
            what: Names the call in errors.
            lease: The lease that what is made belongs to.
            within_s: After this long the call is given up.

        Raises:
            CafsError: as ``cafs.containerd.errors`` has it.
        """
        start = self._channel.unary_unary(method.path, method.serialize_request, method.parse_response)
        future = start.future(request, timeout=within_s, metadata=self._metadata(lease))
        ended = trio.Event()

        def wake(_future: object) -> None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(ended.set)

        future.add_done_callback(wake)
        try:
            await ended.wait()
            return future.result()
        except grpc.RpcError as e:
            raise self.translated(e, what) from e
        finally:
            future.cancel()  # type: ignore[no-untyped-call]  # grpc-stubs forgot its return type

    def stream(self, method: Method, request: Any, *, lease: str | None, within_s: float) -> Any:
        """See ``Service.stream``."""
        kind = self._channel.stream_stream if method.streams_requests else self._channel.unary_stream
        start = kind(method.path, method.serialize_request, method.parse_response)
        return start(request, timeout=within_s, metadata=self._metadata(lease))

    def translated(self, error: grpc.RpcError, what: str) -> Exception:
        """An error of grpc's as one of ours."""
        return error_of(error.code(), error.details() or "", f"containerd: {what}")

    def close(self) -> None:
        """End all calls and the connection."""
        self._channel.close()

    def _metadata(self, lease: str | None) -> tuple[tuple[str, str], ...]:
        metadata = (("containerd-namespace", self.namespace),)
        return metadata if lease is None else (*metadata, ("containerd-lease", lease))


def warm_up() -> object:
    """Start grpc's own threads, which the first connection of a process would wait for.

    Hold on to the answer until there is a connection. A process that did this must not fork.
    """
    return grpc.insecure_channel("unix:/", options=_OPTIONS)


@asynccontextmanager
async def connect(address: Path, namespace: str) -> AsyncGenerator[Connection]:
    """A connection for the time of the block.

    Raises:
        StateError: nobody answers at ``address``; the message says what to do.
    """
    await _probe(address)
    connection = Connection(address, namespace)
    try:
        yield connection
    finally:
        connection.close()


async def _probe(address: Path) -> None:
    """grpc's own message for a socket that is not there says neither which nor why."""
    try:
        with trio.fail_after(_CONNECT_S), trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            await probe.connect(os.fspath(address))
    except PermissionError as e:
        raise StateError(f"{address} may not be opened: containerd's socket is root's") from e
    except (OSError, trio.TooSlowError) as e:
        reason = getattr(e, "strerror", None) or str(e) or "timed out"
        raise StateError(
            f"no containerd answers at {address} ({reason}): start it, or name its socket with --address"
        ) from e
