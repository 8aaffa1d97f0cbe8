"""The Scheduler service over grpc.aio: streams of hosts, and questions about tasks, hosts and decisions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cafs.daemon.grpc_streams import Parsed, RunningStreams, answering, first_message
from cafs.daemon.host_certificate import mismatch
from cafs.errors import ProtocolError
from cafs.proto import p2p_pb2
from cafs.proto.services import methods_of
from cafs.scheduler.answers import explain, list_hosts, list_tasks
from cafs.scheduler.blocking import judged
from cafs.scheduler.incoming import parse_event, parse_hello
from cafs.scheduler.streams import Hub, Stream
from cafs.scheduler.swarm import show_swarm

log = logging.getLogger(__name__)

SERVICE = "cafs.p2p.v1.Scheduler"
_LAST_WRITE_S = 1.0
"""For a host to take what is being sent when its stream ends."""
_Context = grpc.aio.ServicerContext[Any, Any]


class SchedulerService:
    """The handlers of the service."""

    def __init__(self, hub: Hub, *, mutual_tls: bool) -> None:
        self._hub = hub
        self._mutual_tls = mutual_tls
        self._running = RunningStreams()

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        methods = {method.name: method for method in methods_of(p2p_pb2.DESCRIPTOR, "Scheduler")}
        # Messages to hosts are bytes already: what goes to many is encoded once.
        table = {
            "Connect": grpc.stream_stream_rpc_method_handler(self._connect, None, lambda message: message)
        }
        for name, handler in (
            ("ListTasks", self._list_tasks),
            ("ListHosts", self._list_hosts),
            ("Explain", self._explain),
            ("Swarm", self._swarm),
        ):
            table[name] = answering(methods[name], handler)
        return grpc.method_handlers_generic_handler(SERVICE, table)

    async def drained(self) -> None:
        """When no stream is left."""
        await self._running.drained()

    async def _connect(self, said: AsyncIterator[bytes], context: _Context) -> None:
        with self._running.one_more():
            await self._serve(Parsed(said, p2p_pb2.FromHost.FromString), context)

    async def _serve(self, requests: AsyncIterator[p2p_pb2.FromHost], context: _Context) -> None:
        try:
            stream = await self._greet(requests, context)
        except ProtocolError as e:
            await self._reject(context, grpc.StatusCode.INVALID_ARGUMENT, str(e))
            return
        speaking = asyncio.create_task(_speak(stream, context))
        work = [asyncio.create_task(self._listen(stream, requests)), speaking]
        try:
            await stream.ended.wait()
        finally:
            self._hub.close(stream)
            # A write that was cancelled leaves a call whose end cannot be told any more.
            await asyncio.wait([speaking], timeout=_LAST_WRITE_S)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        if stream.code is not grpc.StatusCode.OK:
            await context.abort(stream.code, stream.why)

    async def _greet(self, requests: AsyncIterator[p2p_pb2.FromHost], context: _Context) -> Stream:
        hello = parse_hello(await first_message(requests, "HostHello"))
        wrong = mismatch(hello.host_id, hello.address, context.auth_context()) if self._mutual_tls else ""
        if wrong:
            await self._reject(context, grpc.StatusCode.UNAUTHENTICATED, wrong)
        log.info("host %s (%s, %s) is here", hello.host_id, hello.hostname, hello.address)
        return self._hub.open(hello)

    async def _reject(self, context: _Context, code: grpc.StatusCode, why: str) -> None:
        self._hub.tally.rejected += 1
        log.info("a stream of %s was rejected: %s", context.peer(), why)
        await context.abort(code, why)

    async def _listen(self, stream: Stream, requests: AsyncIterator[p2p_pb2.FromHost]) -> None:
        """Until the host ends the stream, or sends nonsense."""
        try:
            async for message in requests:
                if (event := parse_event(stream.host_id, message)) is not None:
                    self._hub.handle(judged(event, self._hub.wishes))
        except ProtocolError as e:
            self._hub.tally.rejected += 1
            log.info("host %s: %s", stream.host_id, e)
            stream.end(grpc.StatusCode.INVALID_ARGUMENT, str(e))
        except Exception as e:  # the transport's: whatever it is, this stream is over
            log.info("host %s: its stream broke: %s", stream.host_id, type(e).__name__)
        stream.end(grpc.StatusCode.OK)

    async def _list_tasks(
        self, request: p2p_pb2.ListTasksRequest, context: _Context
    ) -> p2p_pb2.ListTasksResponse:
        return list_tasks(self._hub.core.state, request, self._hub.now())

    async def _list_hosts(
        self, request: p2p_pb2.ListHostsRequest, context: _Context
    ) -> p2p_pb2.ListHostsResponse:
        return list_hosts(self._hub.core.state, request, self._hub.now())

    async def _explain(self, request: p2p_pb2.ExplainRequest, context: _Context) -> p2p_pb2.ExplainResponse:
        found = explain(self._hub.core.state, request, self._hub.now())
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "neither such a task nor such a peer is known")
            raise AssertionError("abort has raised")
        return found

    async def _swarm(self, request: p2p_pb2.SwarmRequest, context: _Context) -> p2p_pb2.SwarmResponse:
        found = show_swarm(self._hub.core.state, request, self._hub.now())
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such task is known")
            raise AssertionError("abort has raised")
        return found


async def _speak(stream: Stream, context: _Context) -> None:
    try:
        while True:
            message = await stream.take()
            if message is None:
                return
            await context.write(message)
    except Exception as e:  # the transport's, as above
        log.info("host %s: its stream broke: %s", stream.host_id, type(e).__name__)
        stream.end(grpc.StatusCode.OK)
