"""The Manager service over grpc.aio: a stream for each service, or one for all hosts of a scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from cafs.daemon.carried_stream import Context, carry
from cafs.daemon.grpc_streams import Parsed, RunningStreams, first_message
from cafs.daemon.host_certificate import mismatch
from cafs.errors import ProtocolError, UnavailableError
from cafs.manager.services.attached import Attached
from cafs.manager.services.incoming import Arrival, parse_hello
from cafs.manager.services.reception import Reception
from cafs.manager.services.relays import Relays
from cafs.manager.services.roll import Roll
from cafs.proto import manager_pb2
from cafs.proto.services import methods_of

SERVICE = "cafs.manager.v1.Manager"


class ManagerService:
    """The handlers of the service."""

    def __init__(
        self, roll: Roll, reception: Reception, relays: Relays, *, mutual_tls: bool, alive_every_s: float
    ) -> None:
        self._roll = roll
        self._reception = reception
        self._relays = relays
        self._mutual_tls = mutual_tls
        self._alive_every_s = alive_every_s
        self._running = RunningStreams()

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        serve: dict[str, Callable[..., Any]] = {"Attach": self._attach, "Relay": self._relay}
        table = {
            method.name: grpc.stream_stream_rpc_method_handler(
                serve[method.name], None, method.serialize_response
            )
            for method in methods_of(manager_pb2.DESCRIPTOR, "Manager")
        }
        return grpc.method_handlers_generic_handler(SERVICE, table)

    async def drained(self) -> None:
        """When no stream is left."""
        await self._running.drained()

    async def end_silent(self) -> None:
        """End streams on which nothing is heard for three times as long as should be, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._alive_every_s / 2)
            self._roll.end_silent(clock() - 3 * self._alive_every_s)

    async def _relay(self, said: AsyncIterator[bytes], context: Context) -> None:
        with self._running.one_more():
            await self._relays.serve(Parsed(said, manager_pb2.FromScheduler.FromString), context)

    async def _attach(self, said: AsyncIterator[bytes], context: Context) -> None:
        requests = Parsed(said, manager_pb2.FromService.FromString)
        with self._running.one_more():
            try:
                arrival = parse_hello(await first_message(requests, "Hello"))
            except ProtocolError as e:
                await self._reject(context, grpc.StatusCode.INVALID_ARGUMENT, str(e))
                return
            await self._serve(arrival, requests, context)

    async def _serve(
        self, arrival: Arrival, requests: AsyncIterator[manager_pb2.FromService], context: Context
    ) -> None:
        if self._mutual_tls:
            wrong = mismatch(arrival.host_id, arrival.address, context.auth_context())
            if wrong:
                await self._reject(context, grpc.StatusCode.UNAUTHENTICATED, wrong)
                return
        attached = self._reception.arrive(arrival)
        try:
            if attached.written is not None:
                await asyncio.shield(attached.written)
            attached.written = None
        except UnavailableError as e:
            self._reception.leave(attached)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(e))
            return
        except asyncio.CancelledError:
            self._reception.leave(attached)
            raise
        await self._converse(attached, requests, context)

    async def _converse(
        self, attached: Attached, requests: AsyncIterator[manager_pb2.FromService], context: Context
    ) -> None:
        async def hear(message: manager_pb2.FromService) -> None:
            self._reception.heed(attached, message)

        await carry(
            attached,
            requests,
            context,
            name=attached.arrival.host_id,
            take=tuple if attached.ended else self._reception.welcome(attached),
            hear=hear,
            left=lambda: self._reception.leave(attached),
        )

    async def _reject(self, context: Context, code: grpc.StatusCode, why: str) -> None:
        self._reception.note_rejected(context.peer(), why)
        await context.abort(code, why)
