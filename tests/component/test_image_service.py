"""CRI's image service passed on: every method, errors, metadata, cancellation; secrets go one way only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from cafs.cri.image_service import ImageServiceProxy
from cafs.errors import StateError
from cafs.proto.cri_pb2 import AuthConfig, ImageSpec, PullImageRequest
from tests.support.logs import ExpectedLogs
from tests.support.patience import PATIENCE_S

V1 = "/runtime.v1.ImageService/"
PULL = PullImageRequest(
    image=ImageSpec(image="a.io/app:v1"), auth=AuthConfig(username="alice", password="sesame")
).SerializeToString()
BROUGHT = {"host": "a.io", "image": "a.io/app", "username": "alice", "secret": "sesame"}


@dataclass
class Containerd(grpc.GenericRpcHandler):
    """Answers each call with the request's bytes turned round, after what is asked of it."""

    calls: list[tuple[str, bytes, dict[str, Any]]] = field(default_factory=list)
    stalls: bool = False
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    started: asyncio.Event = field(default_factory=asyncio.Event)

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method

        async def answer(request: bytes, context: Any) -> Any:
            self.calls.append((path, request, dict(context.invocation_metadata())))
            self.started.set()
            if request == b"fail":
                await context.abort(grpc.StatusCode.NOT_FOUND, "no such image", (("why", "gone"),))
            if self.stalls:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            for _ in range(3 if path.endswith("StreamImages") else 1):
                yield request[::-1]

        return grpc.unary_stream_rpc_method_handler(answer)


@dataclass
class Node:
    """Proxy and containerd, each on its socket."""

    containerd: Containerd
    kubelet: grpc.aio.Channel
    brought: list[dict[str, str]]

    async def call(self, method: str, request: bytes, **options: Any) -> bytes:
        return await self.kubelet.unary_unary(V1 + method)(request, **options)


@asynccontextmanager
async def running(
    folder: Path, bring: Callable[[dict[str, str]], Awaitable[None]] | None = None
) -> AsyncIterator[Node]:
    brought: list[dict[str, str]] = []

    async def note(credentials: dict[str, str]) -> None:
        brought.append(credentials)

    containerd = Containerd()
    proxy = ImageServiceProxy(folder / "containerd.sock", bring or note)
    servers = []
    for name, handler in (("containerd", containerd), ("proxy", proxy)):
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handler,))
        server.add_insecure_port(f"unix:{folder / name}.sock")
        await server.start()
        servers.append(server)
    async with grpc.aio.insecure_channel(f"unix:{folder / 'proxy'}.sock") as channel:
        yield Node(containerd, channel, brought)
    await proxy.aclose()
    for server in servers:
        await server.stop(None)


def test_every_method_is_passed_on_as_it_came(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as node:
            for method in ("ListImages", "ImageStatus", "RemoveImage", "ImageFsInfo", "WhatComesLater"):
                assert await node.call(method, b"\x00any", metadata=(("trace", "1"),)) == b"yna\x00"
            stream = node.kubelet.unary_stream(V1 + "StreamImages")(b"ab")
            assert [answer async for answer in stream] == [b"ba"] * 3
            assert {metadata.get("trace") for _, _, metadata in node.containerd.calls[:5]} == {"1"}
            assert node.brought == []

    asyncio.run(main())


def test_what_is_not_the_image_service_is_not_passed_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as node:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await node.kubelet.unary_unary("/runtime.v1.RuntimeService/Version")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert node.containerd.calls == []

    asyncio.run(main())


def test_credentials_are_there_before_containerd_hears_of_the_pull(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        heard: list[int] = []

        async def bring(credentials: dict[str, str]) -> None:
            assert credentials == BROUGHT
            heard.append(len(node.containerd.calls))

        async with running(tmp_path, bring) as node:
            assert await node.call("PullImage", PULL) == PULL[::-1]
            assert heard == [0]

    asyncio.run(main())
    assert "image=a.io/app" in caplog.text
    assert "sesame" not in caplog.text
    assert "alice" not in caplog.text


@pytest.mark.parametrize("request_bytes", [PULL, b"\xff no message"])
def test_a_pull_goes_on_when_they_cannot_be_handed_on(
    tmp_path: Path, request_bytes: bytes, expected_logs: ExpectedLogs, caplog: pytest.LogCaptureFixture
) -> None:
    expected_logs.expect("pull secret not handed on")

    async def bring(_credentials: dict[str, str]) -> None:
        raise StateError("no mount server answers")

    async def main() -> None:
        async with running(tmp_path, bring) as node:
            assert await node.call("PullImage", request_bytes) == request_bytes[::-1]

    asyncio.run(main())
    assert "sesame" not in caplog.text


def test_errors_come_back_as_containerd_said_them(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as node:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await node.call("ImageStatus", b"fail")
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == "no such image"
            assert ("why", "gone") in tuple(caught.value.trailing_metadata())

    asyncio.run(main())


def test_containerd_that_is_away_is_unavailable(tmp_path: Path) -> None:
    async def main() -> None:
        proxy = ImageServiceProxy(tmp_path / "nobody.sock", lambda _credentials: asyncio.sleep(0))
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((proxy,))
        server.add_insecure_port(f"unix:{tmp_path / 'proxy.sock'}")
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{tmp_path / 'proxy.sock'}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(V1 + "ListImages")(b"", timeout=PATIENCE_S)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        await proxy.aclose()
        await server.stop(None)

    asyncio.run(main())


def test_a_call_that_is_given_up_is_given_up_at_containerd(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as node:
            node.containerd.stalls = True
            call = node.kubelet.unary_unary(V1 + "PullImage")(PULL)
            await asyncio.wait_for(node.containerd.started.wait(), 10)
            call.cancel()
            await asyncio.wait_for(node.containerd.cancelled.wait(), 10)

    asyncio.run(main())
