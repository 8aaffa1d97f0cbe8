"""A registry that sends requests on to its storage, which moves: the registry is asked where to."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import trio

from cafs.core.settings import Settings
from cafs.oci.registry.client import RegistryClient, Request
from tests.support.scripted_server import ScriptedServer, serve_script

BLOB = f"/v2/a/blobs/sha256:{'0' * 64}"


async def test_storage_that_is_gone_is_not_asked_again(tmp_path: Path) -> None:
    places: list[str] = []

    async def send_on(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while await server.read_request(stream):
            head = f"HTTP/1.1 307 Go\r\nLocation: http://{places[-1]}/x\r\nContent-Length: 0\r\n\r\n"
            await stream.send_all(head.encode())

    async def give(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")

    async with serve_script(send_on) as registry, serve_script(give) as later, AsyncExitStack() as stack:
        settings = Settings(cache_dir=tmp_path, run_dir=tmp_path)
        client = RegistryClient(registry.host, settings, lambda: ())
        stack.push_async_callback(client.aclose)
        request = Request("GET", BLOB, "a blob", (), frozenset((200,)))
        async with serve_script(give) as first:
            places.append(first.host)
            assert (await client.call(request))[1] == (await client.call(request))[1] == b"x"
        assert (len(registry.heads), len(first.heads)) == (1, 2)
        places.append(later.host)
        assert (await client.call(request))[1] == b"x"
        assert (await client.call(request))[1] == b"x"
        assert (len(registry.heads), len(later.heads)) == (2, 2)
