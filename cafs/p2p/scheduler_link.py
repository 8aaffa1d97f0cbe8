"""One stream to one scheduler. The only module of the peer that imports grpc.

gRPC's own threads carry the stream; what is heard is handed to the trio thread message by message, so a busy
peer slows the stream and not its memory. ``converse`` ends when the stream does, and cancelling it ends the
stream.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import trio
from google.protobuf.message import DecodeError, Message

from cafs.daemon.grpc_client import LinkTls, open_channel
from cafs.errors import NotFoundError, RemoteError
from cafs.p2p.link_trouble import why_unreachable
from cafs.proto import p2p_pb2
from cafs.proto.services import methods_of

CONNECT_S = 5.0
MAX_WAITING = 8192
"""Messages that the scheduler has not taken: then the stream is given up, and begun anew."""
_METHODS = {method.name: method for method in methods_of(p2p_pb2.DESCRIPTOR, "Scheduler")}
_CONNECT = _METHODS["Connect"]


class LinkEndedError(RemoteError):
    """The stream ended; the message says how."""


class Outbox:
    """Messages on their way to the scheduler, in order."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[p2p_pb2.FromHost | None] = queue.SimpleQueue()
        self.overrun = False

    def send(self, message: p2p_pb2.FromHost) -> None:
        """Some time; never waits."""
        if self._queue.qsize() >= MAX_WAITING:
            self.overrun = True
        else:
            self._queue.put(message)

    def close(self) -> None:
        """That was the last one."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[p2p_pb2.FromHost]:
        return iter(self._queue.get, None)


async def converse(
    address: str,
    outbox: Outbox,
    reached: Callable[[], None],
    heard: Callable[[p2p_pb2.ToHost], None],
    *,
    tls: LinkTls | None = None,
) -> None:
    """Carry messages both ways until the stream ends.

    Args:
        address: HOST:PORT.
        outbox: What to say. Belongs to this stream: it is closed at its end.
        reached: Called in the trio thread once there is a connection: what is said first is as of now.
        heard: Called in the trio thread with each message.
        tls: For mTLS; None: plain.

    Raises:
        LinkEndedError: always, unless cancelled.
        StorageError: a file of ``tls`` cannot be read.
    """
    with open_channel(address, tls) as channel:
        open_stream = channel.stream_stream(_CONNECT.path, _CONNECT.serialize_request, None)
        call, away = None, False

        def pump() -> None:
            nonlocal call
            grpc.channel_ready_future(channel).result(CONNECT_S)
            trio.from_thread.run_sync(reached)
            call = open_stream(iter(outbox))
            for content in call:  # read here: gRPC takes bytes that are no message for our mistake
                trio.from_thread.run_sync(heard, p2p_pb2.ToHost.FromString(content))

        try:
            await trio.to_thread.run_sync(pump, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))
        except grpc.FutureTimeoutError:
            away = True
        except DecodeError:
            raise LinkEndedError(
                f"scheduler {address}: it said what is no message of this protocol"
            ) from None
        except grpc.RpcError as e:
            code = e.code().name if isinstance(e, grpc.Call) else type(e).__name__
            detail = e.details() if isinstance(e, grpc.Call) else ""
            raise LinkEndedError(f"scheduler {address}: {code} {detail}".strip()) from None
        finally:
            outbox.close()
            if call is not None:
                call.cancel()  # type: ignore[no-untyped-call]  # grpc-stubs forgot its return type
    if away:
        files = (tls.certificate, tls.key, tls.authority) if tls is not None else None
        why = await trio.to_thread.run_sync(why_unreachable, address, files, abandon_on_cancel=True)
        raise LinkEndedError(f"scheduler {address} cannot be reached: {why}".removesuffix(": "))
    raise LinkEndedError(f"scheduler {address}: the stream ended")


def ask_scheduler(address: str, tls: LinkTls | None, method: str, request: Message) -> Any:
    """The answer to one question, such as ``Explain``. Waits in this thread.

    Raises:
        NotFoundError: the scheduler does not know what it is about.
        LinkEndedError: there is no answer.
        StorageError: a file of ``tls`` cannot be read.
    """
    asked = _METHODS[method]
    with open_channel(address, tls) as channel:
        call = channel.unary_unary(asked.path, asked.serialize_request, asked.parse_response)
        try:
            return call(request, timeout=CONNECT_S)
        except grpc.RpcError as e:
            code = e.code() if isinstance(e, grpc.Call) else grpc.StatusCode.UNKNOWN
            if code is grpc.StatusCode.NOT_FOUND:
                raise NotFoundError(f"scheduler {address} does not know it") from None
            raise LinkEndedError(f"scheduler {address}: {code.name}") from None
