"""containerd's Snapshots service (version 1) over grpc.aio: messages in, messages out.

Translates between protobuf and ``snapshotter``, and errors to gRPC codes, in one table. Every call has a
deadline. A client that goes away does not stop what it asked for half-way: that runs to its end.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from cafs.errors import (
    CafsError,
    ExistsError,
    NotFoundError,
    StateError,
    UnavailableError,
    UsageError,
)
from cafs.proto import mount_pb2, snapshots_pb2
from cafs.proto.services import Method, methods_of
from cafs.snapshotter.snapshot import Info, Mount
from cafs.snapshotter.snapshotter import Snapshotter
from cafs.snapshotter.tally import Tally

log = logging.getLogger(__name__)

CALL_DEADLINE_S = 120.0
"""For everything: longer than all that a call waits for has deadlines of its own."""
_BATCH = 100
"""Snapshots in one message of List's answer, as containerd sends them."""
_CODES: tuple[tuple[type[CafsError], grpc.StatusCode], ...] = (
    (ExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (StateError, grpc.StatusCode.FAILED_PRECONDITION),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (UsageError, grpc.StatusCode.INVALID_ARGUMENT),
    (CafsError, grpc.StatusCode.INTERNAL),
)
_T = TypeVar("_T")


def failure(error: Exception) -> tuple[grpc.StatusCode, str]:
    """How an error is answered: code and one line."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code, " ".join(str(error).split())
    if isinstance(error, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED, f"not done within {CALL_DEADLINE_S:g} s"
    if isinstance(error, OSError):
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNKNOWN
        return code, f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    return grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}: {error}"


class SnapshotsService:
    """The handlers, one a method of the service, by its name."""

    def __init__(self, snapshotter: Snapshotter, tally: Tally) -> None:
        self._snapshotter = snapshotter
        self._tally = tally
        self._running: set[asyncio.Task[Any]] = set()

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        methods = {m.name: m for m in methods_of(snapshots_pb2.DESCRIPTOR, "Snapshots")}
        plain: dict[str, Callable[[Any], Awaitable[Message]]] = {
            "Prepare": self._prepare,
            "View": self._view,
            "Mounts": self._mounts,
            "Commit": self._commit,
            "Remove": self._remove,
            "Stat": self._stat,
            "Update": self._update,
            "Usage": self._usage,
            "Cleanup": self._cleanup,
        }
        table = {name: self._unary(methods[name], handler) for name, handler in plain.items()}
        table["List"] = grpc.unary_stream_rpc_method_handler(
            self._list, methods["List"].parse_request, methods["List"].serialize_response
        )
        service = snapshots_pb2.DESCRIPTOR.services_by_name["Snapshots"].full_name
        return grpc.method_handlers_generic_handler(service, table)

    def _unary(
        self, method: Method, handler: Callable[[Any], Awaitable[Message]]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        async def call(request: Message, context: grpc.aio.ServicerContext[Message, Message]) -> Message:
            return await self._answer(method.name, handler(request), context)

        return grpc.unary_unary_rpc_method_handler(call, method.parse_request, method.serialize_response)

    async def _answer(
        self,
        name: str,
        work: Coroutine[Any, Any, _T] | Awaitable[_T],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> _T:
        """Do the work within the deadline, also when the client goes away meanwhile."""
        began, code, message = time.monotonic(), grpc.StatusCode.OK, ""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                return await asyncio.shield(task)
        except Exception as e:
            code, message = failure(e)
            if code is grpc.StatusCode.INTERNAL:
                log.exception("%s failed", name)
        finally:
            self._tally.note_call(name, code.name, time.monotonic() - began)
        await context.abort(code, message)
        raise AssertionError("abort has raised")

    async def _prepare(self, request: snapshots_pb2.PrepareSnapshotRequest) -> Message:
        mounts = await self._snapshotter.prepare(request.key, request.parent, request.labels)
        return snapshots_pb2.PrepareSnapshotResponse(mounts=map(_mount, mounts))

    async def _view(self, request: snapshots_pb2.ViewSnapshotRequest) -> Message:
        mounts = await self._snapshotter.view(request.key, request.parent, request.labels)
        return snapshots_pb2.ViewSnapshotResponse(mounts=map(_mount, mounts))

    async def _mounts(self, request: snapshots_pb2.MountsRequest) -> Message:
        return snapshots_pb2.MountsResponse(mounts=map(_mount, await self._snapshotter.mounts(request.key)))

    async def _commit(self, request: snapshots_pb2.CommitSnapshotRequest) -> Message:
        await self._snapshotter.commit(request.name, request.key, request.parent, request.labels)
        return Empty()

    async def _remove(self, request: snapshots_pb2.RemoveSnapshotRequest) -> Message:
        await self._snapshotter.remove(request.key)
        return Empty()

    async def _stat(self, request: snapshots_pb2.StatSnapshotRequest) -> Message:
        return snapshots_pb2.StatSnapshotResponse(info=_info(await self._snapshotter.stat(request.key)))

    async def _update(self, request: snapshots_pb2.UpdateSnapshotRequest) -> Message:
        info = await self._snapshotter.update(
            request.info.name, request.info.labels, list(request.update_mask.paths)
        )
        return snapshots_pb2.UpdateSnapshotResponse(info=_info(info))

    async def _list(
        self,
        request: snapshots_pb2.ListSnapshotsRequest,
        context: grpc.aio.ServicerContext[Message, Message],
    ) -> AsyncIterator[Message]:
        found = await self._answer("List", self._snapshotter.list(list(request.filters)), context)
        for start in range(0, len(found), _BATCH):
            yield snapshots_pb2.ListSnapshotsResponse(info=map(_info, found[start : start + _BATCH]))

    async def _usage(self, request: snapshots_pb2.UsageRequest) -> Message:
        usage = await self._snapshotter.usage(request.key)
        return snapshots_pb2.UsageResponse(size=usage.size_bytes, inodes=usage.inodes)

    async def _cleanup(self, request: snapshots_pb2.CleanupRequest) -> Message:
        await self._snapshotter.cleanup()
        return Empty()


def _mount(mount: Mount) -> mount_pb2.Mount:
    return mount_pb2.Mount(type=mount.type, source=mount.source, options=mount.options)


def _info(info: Info) -> snapshots_pb2.Info:
    return snapshots_pb2.Info(
        name=info.name,
        parent=info.parent,
        kind=int(info.kind),  # type: ignore[arg-type]  # the stub has a class where protobuf takes a number
        created_at=_timestamp(info.created_ns),
        updated_at=_timestamp(info.updated_ns),
        labels=info.labels,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(nanoseconds)
    return stamp
