"""gRPC's own health service: SERVING from the first moment to the last but one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cafs.daemon.grpc_streams import answering
from cafs.proto import health_pb2
from cafs.proto.services import methods_of

_ITS_OWN = "grpc.health.v1.Health"
_Context = grpc.aio.ServicerContext[Any, Any]
_Status = health_pb2.HealthCheckResponse


class HealthService:
    """Answers for the server as a whole and each service of it."""

    def __init__(self, *services: str) -> None:
        """``services``: their full names, as ``cafs.p2p.v1.Scheduler``."""
        self._services = frozenset({"", _ITS_OWN, *services})
        self._ending = asyncio.Event()

    def end(self) -> None:
        """From now on it says that nobody should come."""
        self._ending.set()

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        methods = {method.name: method for method in methods_of(health_pb2.DESCRIPTOR, "Health")}
        check, watch = methods["Check"], methods["Watch"]
        table = {
            "Check": answering(check, self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self._watch, watch.parse_request, watch.serialize_response
            ),
        }
        return grpc.method_handlers_generic_handler(_ITS_OWN, table)

    def _now(self) -> _Status:
        return _Status(status=_Status.NOT_SERVING if self._ending.is_set() else _Status.SERVING)

    async def _check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> _Status:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return self._now()

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncIterator[_Status]:
        if request.service not in self._services:
            yield _Status(status=_Status.SERVICE_UNKNOWN)
        else:
            yield self._now()
            if not self._ending.is_set():
                await self._ending.wait()
                yield self._now()
                return
        await self._ending.wait()
