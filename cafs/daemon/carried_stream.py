"""A host's stream at whoever serves it: it may be ended, has news now and then, is carried by a call of gRPC.

Used by the manager, and by a scheduler that passes streams on to it. For one asyncio loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc

from cafs.errors import ProtocolError

log = logging.getLogger(__name__)

_LAST_WRITE_S = 1.0
"""For a host to take what is being sent when its stream ends."""
Context = grpc.aio.ServicerContext[Any, Any]


class Room:
    """For what waits to be said on many streams, in bytes."""

    __slots__ = ("_free",)

    def __init__(self, most_bytes: int) -> None:
        self._free = most_bytes

    def take(self, size: int) -> bool:
        """Whether there was so much."""
        if size > self._free:
            return False
        self._free -= size
        return True

    def give_back(self, size: int) -> None:
        """It waits no more."""
        self._free += size


class CarriedStream:
    """See the module. There are many: no task, lock or event of its own."""

    __slots__ = ("code", "ended", "on_end", "on_news", "why")

    def __init__(self) -> None:
        self.ended = False
        self.code = grpc.StatusCode.OK
        self.why = ""
        self.on_news: Callable[[], object] = nothing
        """Called when it may have to be told something."""
        self.on_end: Callable[[], object] = nothing
        """Called once it has ended."""

    def end(self, code: grpc.StatusCode, why: str = "") -> None:
        """The first reason counts."""
        if not self.ended:
            self.ended, self.code, self.why = True, code, why
            self.on_end()

    def let_go(self) -> None:
        """Nothing carries it any more."""
        self.on_end = self.on_news = nothing
        self.end(grpc.StatusCode.OK)


async def carry(
    stream: CarriedStream,
    requests: AsyncIterator[Any],
    context: Context,
    *,
    name: str,
    take: Callable[[], Sequence[Any]],
    hear: Callable[[Any], Awaitable[None]],
    left: Callable[[], None],
) -> None:
    """Until the stream ends; the call ends with its reason.

    Args:
        stream: May be ended by anybody; has no other carrier.
        requests: What the host says; raises ``ProtocolError`` for what is no message.
        context: Of the call.
        name: Of the host, for the log.
        take: What is to be said now; it counts as said.
        hear: Does as the host says.
        left: Called when nothing more is heard.
    """
    speaking, reading = _Speaking(stream, take, context, name), asyncio.current_task()
    assert reading is not None

    def stop_reading() -> None:
        # Only a read may be cut short: a write that was leaves a call whose end cannot be told any more.
        if asyncio.current_task() is not reading:
            reading.cancel()

    try:
        stream.on_news, stream.on_end = speaking.on_news, stop_reading
        speaking.on_news()  # not awaited: a host that takes nothing shall be ended, too
        while not stream.ended:
            # No name for what came: it has some KiB, and the next one comes in half a minute.
            await hear(await anext(requests))
    except StopAsyncIteration:
        pass
    except asyncio.CancelledError:  # noqa: ASYNC103 - it was ended: there is something to say yet
        if not stream.ended:
            raise
    except ProtocolError as e:
        stream.end(grpc.StatusCode.INVALID_ARGUMENT, str(e))
    except Exception as e:  # the transport's: whatever it is, this stream is over
        log.info("host %s: its stream broke: %s", name, type(e).__name__)
    finally:
        stream.let_go()
        left()
        await speaking.end()
    if stream.code is not grpc.StatusCode.OK:
        await context.abort(stream.code, stream.why)


class _Speaking:
    """Says what there is to say, in a task that lasts as long as that takes."""

    __slots__ = ("_context", "_name", "_stream", "_take", "_task")

    def __init__(
        self, stream: CarriedStream, take: Callable[[], Sequence[Any]], context: Context, name: str
    ) -> None:
        self._stream = stream
        self._take = take
        self._context = context
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def on_news(self) -> None:
        """Say it."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._speak_or_end())

    async def end(self) -> None:
        """Let what is being said be said, for a moment."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=_LAST_WRITE_S)
            self._task.cancel()

    async def speak(self) -> None:
        """Until nothing is new."""
        while not self._stream.ended and (messages := self._take()):
            for message in messages:
                await self._context.write(message)

    async def _speak_or_end(self) -> None:
        try:
            await self.speak()
        except Exception as e:  # the transport's, as above
            log.info("host %s: its stream broke: %s", self._name, type(e).__name__)
            self._stream.end(grpc.StatusCode.OK)


def nothing() -> None:
    """Done when nobody wants to know."""
