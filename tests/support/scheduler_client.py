"""A host's side of the scheduler's stream over real gRPC: say something, wait for something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from cafs.proto import health_pb2, p2p_pb2
from cafs.proto.services import methods_of
from tests.support.patience import PATIENCE_S

_METHODS = {method.name: method for method in methods_of(p2p_pb2.DESCRIPTOR, "Scheduler")}
_HEALTH = {method.name: method for method in methods_of(health_pb2.DESCRIPTOR, "Health")}


class HostStream:
    """One ``Connect`` of one host."""

    def __init__(self, channel: grpc.aio.Channel, host_id: str) -> None:
        method = _METHODS["Connect"]
        connect = channel.stream_stream(
            method.path,
            request_serializer=method.serialize_request,
            response_deserializer=method.parse_response,
        )
        self.host_id = host_id
        self.call = connect()
        self.heard: list[p2p_pb2.ToHost] = []

    async def say(self, **message: Any) -> None:
        await self.call.write(p2p_pb2.FromHost(**message))

    async def hello(self, **fields: Any) -> None:
        usual: dict[str, Any] = {
            "protocol_version": 1,
            "host_id": self.host_id,
            "hostname": "h",
            "address": "127.0.0.1:7000",
            "concurrent_upload_limit": 8,
        }
        await self.say(hello=p2p_pb2.HostHello(**{**usual, **fields}))

    async def hear(self, kind: str, fits: Callable[[Any], bool] = lambda _: True) -> Any:
        """The next message of this kind that fits; others are kept in ``heard``."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                message = await self.call.read()
                assert message is not grpc.aio.EOF, f"ended while {kind} was awaited"
                self.heard.append(message)
                if message.WhichOneof("message") == kind and fits(getattr(message, kind)):
                    return getattr(message, kind)

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the server ended the stream."""
        async with asyncio.timeout(PATIENCE_S):
            with suppress(grpc.aio.AioRpcError):
                while await self.call.read() is not grpc.aio.EOF:
                    pass
            return await self.call.code(), await self.call.details() or ""


@asynccontextmanager
async def open_channel(
    port: int, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    address = f"127.0.0.1:{port}"
    if credentials is None:
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel
    else:
        async with grpc.aio.secure_channel(address, credentials) as channel:
            yield channel


async def ask(channel: grpc.aio.Channel, name: str, request: Any) -> Any:
    """One of the unary methods, of the scheduler or of health."""
    method = _METHODS.get(name) or _HEALTH[name]
    call = channel.unary_unary(
        method.path, request_serializer=method.serialize_request, response_deserializer=method.parse_response
    )
    return await call(request, timeout=PATIENCE_S)
