"""The proxy before a real node socket: what it takes from clients its peer takes, too."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cafs.core.live.document import parse_document
from cafs.core.proxying.head import MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES
from cafs.filesystem import CafsFileSystem
from cafs.http11.server import serve_http
from cafs.p2p.node_client import NodeDistributor
from cafs.p2p.node_server import LIMITS, NodeParts, NodeServer
from cafs.p2p.profile_relay import ProfileRelay
from tests.support.grid import GridHost, grid
from tests.support.patience import PATIENCE_S
from tests.support.proxying import Origin, RunningProxy, run_proxy, serve_origin

BODY = os.urandom(1000)
_ROOM_BYTES = 1000
"""For what is in a head beside what is meant."""


@asynccontextmanager
async def proxied(folder: Path) -> AsyncIterator[tuple[RunningProxy, GridHost]]:
    """A proxy, and the peer behind it."""
    unused = cast(Any, None)  # nobody asks for chunks
    path = folder / "peer.sock"
    async with grid(folder, scheduled=False) as swarm:
        host = await swarm.host()
        parts = NodeParts(
            tasks=host.store, exchange=unused, limits=host.limits, store=None, distributor=host.engine,
            profiles=ProfileRelay(has_manager=False, is_on=False), status=dict, metrics=bytes,
        )  # fmt: skip
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_http, listener, NodeServer(parts).handle, LIMITS)
                async with run_proxy(distributor=NodeDistributor(path)) as proxy:
                    yield proxy, host
                nursery.cancel_scope.cancel()


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with serve_origin() as served:
        for path in ("/f", "/v2/app/f"):
            served.page(path, BODY, etag='"1"')
        yield served


async def get(proxy: RunningProxy, url: str, *fields: tuple[str, bytes]) -> bytes:
    """The whole answer to a request as it stands here."""
    lines = [f"GET {url} HTTP/1.1\r\nHost: x\r\nX-Cafs-Use: p2p\r\nConnection: close\r\n".encode()]
    lines += [name.encode() + b": " + value + b"\r\n" for name, value in fields]
    with trio.fail_after(PATIENCE_S):
        return await proxy.say(b"".join(lines) + b"\r\n")


@pytest.mark.parametrize(
    "fields",
    [
        [(f"X-{number}", b"x") for number in range(MAX_FIELDS - 3)],
        [("X-Long", b"x" * (MAX_HEAD_BYTES - _ROOM_BYTES))],
        [("X-Quoted", b'"' * (MAX_HEAD_BYTES - _ROOM_BYTES))],
        [("X-Latin", b"\xe9" * (MAX_HEAD_BYTES - _ROOM_BYTES))],
        [("X-Odd", bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)]).strip())],
        [("X" * (MAX_HEAD_BYTES // 2), b"x")],
        [("Cookie", b"c=" + b"x" * (MAX_HEAD_BYTES - _ROOM_BYTES))],
    ],
    ids=lambda fields: fields[0][0][:8],
)
async def test_header_fields(short_tmp_path: Path, origin: Origin, fields: list[tuple[str, bytes]]) -> None:
    async with proxied(short_tmp_path) as (proxy, host):
        answer = await get(proxy, f"{origin.url}/f", *fields)
        assert (answer[:12], answer[-len(BODY) :]) == (b"HTTP/1.1 200", BODY)
        assert host.figures.source_bytes == len(BODY)
    for name, value in fields:
        assert origin.asked[-1].headers[name.lower()] == value.decode("latin-1")


async def test_what_its_origin_lets_nobody_share(short_tmp_path: Path, origin: Origin) -> None:
    origin.page("/own", BODY, cache_control="private")
    async with proxied(short_tmp_path) as (proxy, host):
        for _ in range(2):
            answer = await get(proxy, f"{origin.url}/own")
            assert (answer[:12], answer[-len(BODY) :]) == (b"HTTP/1.1 200", BODY)
        filesystem = CafsFileSystem(peer=str(short_tmp_path / "peer.sock"), skip_instance_cache=True)
        assert await trio.to_thread.run_sync(filesystem.cat_file, f"{origin.url}/own") == BODY
        assert not any(task.have.bits for task in host.store.tasks())


async def test_refusals_are_the_origins_own(short_tmp_path: Path, origin: Origin) -> None:
    origin.page("/empty", b"", status=204)
    async with proxied(short_tmp_path) as (proxy, _):
        assert (await get(proxy, f"{origin.url}/f"))[-len(BODY) :] == BODY
        beyond = await get(proxy, f"{origin.url}/f", ("Range", b"bytes=9999-"))
        assert beyond.startswith(b"HTTP/1.1 416 ")
        assert f"content-range: bytes */{len(BODY)}\r\n".encode() in beyond.lower()
        empty = await get(proxy, f"{origin.url}/empty")
        assert empty.startswith(b"HTTP/1.1 204 ")
        assert b"content-length" not in empty.lower()
        assert b"x-cafs-origin-status" not in (beyond + empty).lower()


@pytest.mark.parametrize("onward", ["http://169.254.169.254/latest", "http://[fe80::1]/f"])
async def test_a_redirect_to_where_nobody_is_sent(short_tmp_path: Path, origin: Origin, onward: str) -> None:
    origin.page("/onward", b"", status=302, location=onward)
    async with proxied(short_tmp_path) as (proxy, _):
        answer = await get(proxy, f"{origin.url}/onward")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"x-cafs-error: refused" in answer.lower()


@pytest.mark.parametrize("line", [{"url": "/f$"}, {"priority": 3}])
async def test_what_the_cluster_blocks(short_tmp_path: Path, origin: Origin, line: dict[str, object]) -> None:
    """No fault of the origin's, which a client would ask again."""
    async with proxied(short_tmp_path) as (proxy, host):
        host.means.policy.rules = parse_document({"block": [line]}, "scheduler").wishes
        answer = await get(proxy, f"{origin.url}/f")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"x-cafs-error: refused" in answer.lower()
        assert b"blocked by the cluster's configuration" in answer
    assert not origin.asked


async def test_an_address(short_tmp_path: Path, origin: Origin) -> None:
    async with proxied(short_tmp_path) as (proxy, host):
        target = "/v2/app/f?".ljust(MAX_TARGET_BYTES, "x")  # the registry's name comes before it
        answer = await get(proxy, target, ("X-Cafs-Registry", origin.host.encode()))
        assert (answer[:12], answer[-len(BODY) :]) == (b"HTTP/1.1 200", BODY)
        assert host.figures.source_bytes == len(BODY)
    assert origin.asked[-1].target == target


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"nonsense\r\n\r\n",
        b'HTTP/1.1 502 Bad Gateway\r\nContent-Length: 99\r\n\r\n{"error": "I am dy',
    ],
    ids=["nothing", "half a head", "nonsense", "half a refusal"],
)
async def test_a_peer_that_ends_before_it_has_said_what_it_has(
    short_tmp_path: Path, origin: Origin, said: bytes
) -> None:
    """Killed or restarted while clients wait: they get it straight from the origin."""

    async def take_and_end(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(1 << 20)
            if said:
                await stream.send_all(said)

    path = short_tmp_path / "peer.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            listening = trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup()))
            nursery.start_soon(trio.serve_listeners, take_and_end, [listening])
            async with run_proxy(distributor=NodeDistributor(path)) as proxy:
                answer = await get(proxy, f"{origin.url}/f")
            nursery.cancel_scope.cancel()
    assert (answer[:12], answer[-len(BODY) :]) == (b"HTTP/1.1 200", BODY)
