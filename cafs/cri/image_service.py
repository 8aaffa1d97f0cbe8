"""CRI's ImageService, passed on to containerd byte by byte; on the way the pull's credentials are noted.

kubelet knows the pull secrets of a pod, and says them in PullImage only: no label tells a snapshotter. So
kubelet's ``--image-service-endpoint`` points here. The credentials go to the mount server before containerd
hears of the pull, because it needs them for the first layer. Where that fails, the pull goes on without: then
layers are fetched in the ordinary way.

Runs in grpc.aio's loop, beside the Snapshots service. Keeps nothing itself, and logs no secret. A cancelled
call cancels its call to containerd.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from cafs.cri.pull_auth import credentials_of_pull
from cafs.errors import CafsError

_SERVICES = frozenset(("runtime.v1.ImageService", "runtime.v1alpha2.ImageService"))
"""The second is that of kubelet before 1.26."""
_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),  # as containerd's own: the list of images can be long
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 1000),  # containerd is on this machine, and back within a second
]
_NOT_PASSED_ON = frozenset(("user-agent", "content-type", "te"))

log = logging.getLogger(__name__)

Bring = Callable[[dict[str, str]], Awaitable[None]]
"""Hands credentials to the mount server."""


class ImageServiceProxy(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # at run time it takes none
    """A handler for ``grpc.aio.Server.add_generic_rpc_handlers``; answers for CRI's image service only."""

    def __init__(self, containerd: Path, bring: Bring) -> None:
        """Connects to containerd's socket at the first call, and again whenever it was restarted."""
        self._channel = grpc.aio.insecure_channel(f"unix:{containerd}", options=_OPTIONS)
        self._bring = bring

    def service(self, handler_call_details: Any) -> Any:
        """See ``grpc.GenericRpcHandler``; None for what is not ours."""
        path: str = handler_call_details.method
        service, _, method = path.lstrip("/").partition("/")
        if service not in _SERVICES:
            return None
        note = method == "PullImage"
        # To HTTP/2 one answer is a stream of one, so this serves every method, also those of later versions.
        return grpc.unary_stream_rpc_method_handler(partial(self._pass_on, path, note))

    async def aclose(self) -> None:
        """End all calls and the connection."""
        await self._channel.close(None)

    async def _pass_on(
        self, path: str, note: bool, request: bytes, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncGenerator[bytes]:
        if note:
            await self._note(request)
        call = self._channel.unary_stream(path, None, None)(
            request, timeout=context.time_remaining(), metadata=_metadata(context)
        )
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as e:
            trailing: Any = e.trailing_metadata()  # pairs; its type says otherwise
            await context.abort(e.code(), e.details() or "", tuple(trailing or ()))
        finally:
            call.cancel()

    async def _note(self, request: bytes) -> None:
        try:
            credentials = credentials_of_pull(request)
            if credentials is None:
                return
            await self._bring(credentials)
        except CafsError as e:
            log.warning("pull secret not handed on, so layers may be fetched whole: %s", e)
            return
        log.info("pull secret handed on image=%s", credentials["image"])


def _metadata(context: grpc.aio.ServicerContext[Any, Any]) -> tuple[tuple[str, Any], ...]:
    given = context.invocation_metadata() or ()
    return tuple(
        (key, value)
        for key, value in given
        if not key.startswith(("grpc-", ":")) and key not in _NOT_PASSED_ON
    )
