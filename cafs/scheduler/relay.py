"""The manager's ``Attach``, served by a scheduler: its hosts come by way of it, on one connection.

A host is held to its certificate here; all else the manager decides. While there is no way to the manager,
hosts that come wait for a moment: after a restart of the manager they need not come again, and come in few at
a time. Then they are told to take another way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from random import SystemRandom
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cafs.core.host_address import parse_address
from cafs.core.learning import MAX_BYTES
from cafs.daemon.carried_stream import Context, carry
from cafs.daemon.grpc_client import LinkTls, open_loop_channel
from cafs.daemon.grpc_streams import RunningStreams, first_message
from cafs.daemon.host_certificate import mismatch
from cafs.errors import CafsError, ProtocolError
from cafs.proto import manager_pb2
from cafs.proto.services import method_of
from cafs.scheduler.passed import Passage, PassedStream

log = logging.getLogger(__name__)

SERVICE = "cafs.manager.v1.Manager"
MOST_BYTES = MAX_BYTES + (64 << 10)
"""Of a host's message: a start, and everything else."""
_HOLD_S = 10.0
"""For the way to the manager to be there."""
_WELCOME_S = 30.0
"""For the manager to welcome a host."""
_AT_ONCE = 64
"""Hosts that the manager has not welcomed yet."""
_PAUSE_S, _LONGEST_PAUSE_S, _OLDER_PAUSE_S = 0.25, 5.0, 60.0
_ATTACH = method_of(manager_pb2.DESCRIPTOR, "Manager", "Attach")
_RELAY = method_of(manager_pb2.DESCRIPTOR, "Manager", "Relay")


@dataclass(frozen=True, slots=True)
class Way:
    """To the manager."""

    addresses: Sequence[str]
    """HOST:PORT of its replicas."""
    host_id: str
    """Of this scheduler."""
    address: str
    """At which others reach it."""
    tls: LinkTls | None


class HostRelay:
    """See the module."""

    def __init__(self, *, mutual_tls: bool) -> None:
        self._mutual_tls = mutual_tls
        self._running = RunningStreams()
        self._door = asyncio.Semaphore(_AT_ONCE)
        self._passage: Passage | None = None
        self._known = asyncio.Event()
        """Whether there is a way; not set: there may be one soon."""
        self._woken = asyncio.Event()

    @property
    def hosts(self) -> int:
        """How many come by way of this scheduler."""
        return self._passage.hosts if self._passage is not None else 0

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``. Messages stay bytes."""
        handler = grpc.stream_stream_rpc_method_handler(self._attach, None, None)
        return grpc.method_handlers_generic_handler(SERVICE, {_ATTACH.name: handler})

    def wake(self) -> None:
        """The manager has this scheduler."""
        self._woken.set()

    async def drained(self) -> None:
        """When no stream is left."""
        await self._running.drained()

    @asynccontextmanager
    async def kept_up(self, way: Way) -> AsyncIterator[None]:
        """Have a way to the manager, from the first ``wake`` on, while the context lasts."""
        keeping = asyncio.create_task(self._keep_up(way))
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    # The way to the manager

    async def _keep_up(self, way: Way) -> None:
        await self._woken.wait()
        pause_s = _PAUSE_S
        for address in cycle(way.addresses):
            self._woken.clear()
            was_up, why = await self._one_passage(address, way)
            (log.info if was_up else log.debug)("passing on hosts to manager %s: %s", address, why)
            older = why.startswith(grpc.StatusCode.UNIMPLEMENTED.name)
            (self._known.set if older else self._known.clear)()
            pause_s = _PAUSE_S if was_up else min(2 * pause_s, _LONGEST_PAUSE_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    _OLDER_PAUSE_S if older else pause_s * (0.5 + SystemRandom().random())
                ):
                    await self._woken.wait()

    async def _one_passage(self, address: str, way: Way) -> tuple[bool, str]:
        """Until it ends; whether it ever was one, and why it ended."""
        was_up = False
        try:
            async with open_loop_channel(address, way.tls) as channel:
                relay = channel.stream_stream(_RELAY.path, _RELAY.serialize_request, _RELAY.parse_response)
                call = relay()  # type: ignore[call-arg]  # grpc-stubs forgot its default
                relaying = manager_pb2.Relaying(host_id=way.host_id, address=way.address)
                with suppress(asyncio.InvalidStateError):  # it has ended: the read says how
                    await call.write(manager_pb2.FromScheduler(relaying=relaying))
                was_up = isinstance(await call.read(), manager_pb2.ToScheduler)
                if was_up:
                    log.info("hosts reach manager %s by way of this scheduler", address)
                    self._passage = Passage(call)
                    self._known.set()
                    await self._passage.carry()
                return was_up, f"{(await call.code()).name} {await call.details()}"
        except grpc.aio.AioRpcError as e:
            return was_up, f"{e.code().name} {e.details()}"
        except CafsError as e:
            return was_up, str(e)
        except Exception as e:  # whatever it is, this one is over; asyncio has no word for a call that broke
            return was_up, type(e).__name__
        finally:
            self._passage = None

    # Hosts

    async def _attach(self, requests: AsyncIterator[bytes], context: Context) -> None:
        with self._running.one_more():
            try:
                hello = await first_message(requests, "Hello")
                host_id, wrong = self._look_at(hello, context)
            except ProtocolError as e:
                await self._reject(context, grpc.StatusCode.INVALID_ARGUMENT, str(e))
                return
            if wrong:
                await self._reject(context, grpc.StatusCode.UNAUTHENTICATED, wrong)
            await self._pass_on(host_id, hello, requests, context)

    def _look_at(self, message: bytes, context: Context) -> tuple[str, str]:
        """Who comes, and what is wrong with his certificate.

        Raises:
            ProtocolError: it is no Hello, or names no address.
        """
        try:
            said = manager_pb2.FromService.FromString(message)
        except DecodeError:
            raise ProtocolError("it is no message of this protocol") from None
        if said.WhichOneof("message") != "hello":
            raise ProtocolError("the first message must be Hello")
        host_id, address = said.hello.host_id, parse_address(said.hello.address)
        return host_id, mismatch(host_id, address, context.auth_context()) if self._mutual_tls else ""

    async def _pass_on(
        self, host_id: str, hello: bytes, requests: AsyncIterator[bytes], context: Context
    ) -> None:
        passage = await self._way(context)
        woken = asyncio.Event()
        stream = passage.open(woken.set)
        try:
            async with asyncio.timeout(_WELCOME_S), self._door:
                await passage.say(stream, hello)
                await woken.wait()
        except TimeoutError:
            stream.end(grpc.StatusCode.UNAVAILABLE, "the manager does not answer this scheduler")
        except asyncio.CancelledError:
            passage.close(stream)
            raise
        await carry(
            stream,
            requests,
            context,
            name=host_id,
            take=stream.take,
            hear=partial(_hear, passage, stream),
            left=lambda: passage.close(stream),
        )

    async def _way(self, context: Context) -> Passage:
        with suppress(TimeoutError):
            async with asyncio.timeout(_HOLD_S):
                await self._known.wait()
        if self._passage is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this scheduler has no way to the manager")
            raise AssertionError("abort has raised")
        return self._passage

    @staticmethod
    async def _reject(context: Context, code: grpc.StatusCode, why: str) -> None:
        log.info("a stream of %s to the manager was rejected: %s", context.peer(), why)
        await context.abort(code, why)


async def _hear(passage: Passage, stream: PassedStream, message: bytes) -> None:
    if len(message) > MOST_BYTES:
        stream.end(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message of more than {MOST_BYTES} bytes")
    else:
        await passage.say(stream, message)
