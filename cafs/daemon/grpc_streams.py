"""What every service of long-lived gRPC streams needs: how many run, and a first message in time.

Used by scheduler and manager. For one asyncio loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError

from cafs.errors import ProtocolError
from cafs.proto.services import Method

Message = TypeVar("Message")

NO_MESSAGE = "it is no message of this protocol"
HELLO_S = 10.0
"""Whoever opens a stream says who he is within this time."""


class RunningStreams:
    """The streams that are being served."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Around the serving of a stream."""
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._none.set()

    async def drained(self) -> None:
        """When no stream is left."""
        await self._none.wait()


class Parsed(Generic[Message]):
    """What comes on a stream. Not read by gRPC, which takes bytes that are no message for our mistake.

    Waiting raises ``ProtocolError`` for such bytes.
    """

    def __init__(self, requests: AsyncIterator[bytes], parse: Callable[[bytes], Message]) -> None:
        self._requests = requests
        self._parse = parse

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        content = await anext(self._requests)
        try:
            return self._parse(content)
        except DecodeError:
            raise ProtocolError(NO_MESSAGE) from None


def answering(
    method: Method, answer: Callable[[Any, Any], Awaitable[Any]]
) -> grpc.RpcMethodHandler[Any, Any]:
    """A handler of one request with one answer, which refuses bytes that are no message, as ``Parsed``."""

    async def parse_and_answer(content: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            request = method.parse_request(content)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, NO_MESSAGE)
        return await answer(request, context)

    return grpc.unary_unary_rpc_method_handler(parse_and_answer, None, method.serialize_response)


async def first_message(requests: AsyncIterator[Message], name: str) -> Message:
    """The message that a stream has to begin with.

    Args:
        requests: The stream.
        name: What the message is called.

    Raises:
        ProtocolError: the stream ended without one, or none came within ``HELLO_S``.
    """
    try:
        async with asyncio.timeout(HELLO_S):
            return await anext(requests)
    except StopAsyncIteration:
        raise ProtocolError(f"the stream ended before {name}") from None
    except TimeoutError:
        raise ProtocolError(f"no {name} within {HELLO_S:g} s") from None
