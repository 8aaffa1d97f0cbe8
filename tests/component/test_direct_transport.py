"""The lean HTTP client against a server that misbehaves to the byte."""

from __future__ import annotations

import datetime
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from cafs.certificates.authority import Authority
from cafs.core.digest import sha256_digest
from cafs.core.settings import Settings
from cafs.core.source import BlobRef
from cafs.errors import CafsError, DeadlineError, ProtocolError, RemoteError
from cafs.oci.registry.direct import DirectTransport
from cafs.oci.registry.exchange import Exchange, Patience
from cafs.oci.registry.library import needs_proxy
from cafs.oci.registry.repository import RegistryRepository
from tests.support.patience import PATIENCE_S
from tests.support.scripted_server import ScriptedServer, serve_script

PATIENCE = Patience(connect_s=2.0, stall_s=0.3, room_s=0.3)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture
async def transport() -> AsyncIterator[DirectTransport]:
    made = DirectTransport(PATIENCE, 2, {"User-Agent": "test"})
    yield made
    await made.aclose()


async def body_of(exchange: Exchange) -> bytes:
    pieces = []
    while piece := await exchange.receive():
        pieces.append(piece)
    return b"".join(pieces)


async def get(transport: DirectTransport, server: ScriptedServer, path: str = "/x") -> bytes:
    exchange = await transport.send("GET", f"http://{server.host}{path}", {}, "test")
    try:
        return await body_of(exchange)
    finally:
        await exchange.aclose()


async def answer_all(server: ScriptedServer, stream: trio.SocketStream) -> None:
    while await server.read_request(stream):
        await stream.send_all(OK)


async def test_one_connection_serves_one_request_after_the_other(transport: DirectTransport) -> None:
    async with serve_script(answer_all) as server:
        for _ in range(5):
            assert await get(transport, server) == b"hello"
        assert server.connections == 1


async def test_what_is_sent(transport: DirectTransport) -> None:
    async with serve_script(answer_all) as server:
        await get(transport, server, "/a%20b/ü?q=1&r=x y#part")
    lines = server.heads[0].decode("ascii").split("\r\n")
    assert lines[0] == "GET /a%20b/%C3%BC?q=1&r=x%20y HTTP/1.1"
    assert f"Host: {server.host}" in lines
    assert "User-Agent: test" in lines


async def test_a_head_leaves_its_connection_usable(transport: DirectTransport) -> None:
    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while head := await server.read_request(stream):
            await stream.send_all(OK[:-5] if head.startswith(b"HEAD") else OK)

    async with serve_script(script) as server:
        for method, body in (("HEAD", b""), ("GET", b"hello"), ("HEAD", b"")):
            exchange = await transport.send(method, f"http://{server.host}/", {}, "test")
            assert await body_of(exchange) == body
            await exchange.aclose()
        assert server.connections == 1


async def test_a_body_that_is_not_read_costs_its_connection(transport: DirectTransport) -> None:
    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while await server.read_request(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            await stream.send_all(b"defghi")

    async with serve_script(script) as server:
        exchange = await transport.send("GET", f"http://{server.host}/", {}, "test")
        await exchange.aclose()
        await exchange.aclose()
        assert await get(transport, server) == b"abcdefghi"
        assert server.connections == 2


async def test_a_connection_that_the_server_closed_while_idle(transport: DirectTransport) -> None:
    closed = trio.Event()

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(OK)
        await stream.aclose()
        closed.set()

    async with serve_script(script) as server:
        for _ in range(3):
            assert await get(transport, server) == b"hello"
            await closed.wait()
            closed = trio.Event()
        assert server.connections == 3


async def test_a_connection_that_is_closed_just_when_asked(transport: DirectTransport) -> None:
    """No request fails because of a server that tidies up; the answer's first byte ends that grace."""

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(OK)
        await server.read_request(stream)
        if server.connections == 2:
            await stream.send_all(b"HTTP/1.1 2")

    async with serve_script(script) as server:
        assert await get(transport, server) == b"hello"
        assert await get(transport, server) == b"hello"
        assert server.connections == 2
        with pytest.raises(ProtocolError):
            await get(transport, server)


async def test_connections_that_were_cut_off_silently_cost_one_wait(transport: DirectTransport) -> None:
    """As by a link that was down: nothing says so, and none of those that were kept is good any more."""
    both = trio.Event()
    cut = False

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        is_old = not cut
        while await server.read_request(stream):
            if server.connections == 2:
                both.set()
            await both.wait()
            if is_old and cut:
                await trio.sleep_forever()
            await stream.send_all(OK)

    async with serve_script(script) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(get, transport, server)
        cut = True
        with pytest.raises(DeadlineError):
            await get(transport, server)
        assert await get(transport, server) == b"hello"
        assert server.connections == 3


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next(transport: DirectTransport) -> None:
    said = trio.Event()

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(OK)
        if server.connections == 1:
            await stream.send_all(OK.replace(b"hello", b"wrong"))
        said.set()
        await server.read_request(stream)

    async with serve_script(script) as server:
        assert await get(transport, server) == b"hello"
        await said.wait()
        assert await get(transport, server) == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
    ],
)
async def test_bodies_framed_in_every_way(transport: DirectTransport, answer: bytes) -> None:
    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        for place in range(0, len(answer), 7):
            await stream.send_all(answer[place : place + 7])

    async with serve_script(script) as server:
        assert await get(transport, server) == b"hello"
        assert await get(transport, server) == b"hello"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhel", ProtocolError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 20), ProtocolError),
        (b"", RemoteError),
    ],
)
async def test_answers_that_are_none(
    transport: DirectTransport, answer: bytes, kind: type[CafsError]
) -> None:
    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(answer)
        await stream.send_eof()
        await trio.sleep_forever()

    async with serve_script(script) as server:
        for _ in range(3):  # nothing is left behind that would use the room up
            with pytest.raises(kind) as error:
                await get(transport, server)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200", OK[:-1]])
async def test_silence(transport: DirectTransport, said: bytes) -> None:
    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(said)
        await trio.sleep_forever()

    async with serve_script(script) as server:
        with pytest.raises(DeadlineError, match=r"silent for 0\.3 s"):
            await get(transport, server)


async def test_a_slow_body_is_no_silence(transport: DirectTransport) -> None:
    """The client sleeps until much has come; that must not make a slow server a silent one."""

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        await server.read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(8):
            await stream.send_all(b"x" * 1000)
            await trio.sleep(0.1)  # the server's pace, not a synchronisation
        await stream.send_all(b"x" * 32000)

    async with serve_script(script) as server:
        assert len(await get(transport, server)) == 40000


async def test_a_cancelled_request_harms_no_other(transport: DirectTransport) -> None:
    asked = trio.Event()

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while head := await server.read_request(stream):
            if b"/slow" in head:
                await stream.send_all(OK[:-2])
                asked.set()
                await trio.sleep_forever()
            await stream.send_all(OK)

    async with serve_script(script) as server:
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, transport, server, "/slow")
                await asked.wait()
                nursery.cancel_scope.cancel()
            assert await get(transport, server) == b"hello"


async def test_only_so_many_at_once(transport: DirectTransport) -> None:
    async with serve_script(answer_all) as server:
        url = f"http://{server.host}/"
        open_ones = [await transport.send("GET", url, {}, "test") for _ in range(2)]
        with pytest.raises(DeadlineError, match="no free connection"):
            await transport.send("GET", url, {}, "test")
        await open_ones[0].aclose()
        assert await get(transport, server) == b"hello"
        await open_ones[1].aclose()


def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert not needs_proxy("http://registry.example/v2/")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert needs_proxy("https://registry.example:5000/v2/")
    assert not needs_proxy("http://registry.example/v2/")
    monkeypatch.setenv("no_proxy", "registry.example")
    assert not needs_proxy("https://registry.example:5000/v2/")
    assert needs_proxy("https://other.example/v2/")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    assert needs_proxy("http://other.example/v2/")


async def test_what_was_opened_early_is_used_also_in_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server sends session tickets as soon as TLS has begun: an unused connection has something to read."""
    now = datetime.datetime.now(datetime.UTC)
    authority = Authority.make("test", now, 1)
    (tmp_path / "ca").write_bytes(authority.identity.certificate_pem)
    identity = authority.issue("127.0.0.1", ["127.0.0.1"], now, 1)
    (tmp_path / "server").write_bytes(identity.certificate_pem + identity.key_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server")
    greeted = trio.Event()

    def talk(raw: socket.socket) -> None:  # trio's own streams hold tickets back until they have more to say
        raw.settimeout(PATIENCE_S)
        with context.wrap_socket(raw, server_side=True) as tls:
            trio.from_thread.run_sync(greeted.set)
            while tls.recv(4096):
                tls.sendall(OK)

    async def say(_server: ScriptedServer, plain: trio.SocketStream) -> None:
        await trio.to_thread.run_sync(talk, socket.socket(fileno=os.dup(plain.socket.fileno())))

    transport = DirectTransport(Patience(PATIENCE_S, PATIENCE_S, PATIENCE_S), 2, {})
    async with serve_script(say) as server:
        url = f"https://{server.host}/"
        await transport.open_early(url)
        await greeted.wait()
        exchange = await transport.send("GET", url, {}, "test")
        assert await body_of(exchange) == b"hello"
        exchange.abort()
        assert server.connections == 1
    await transport.aclose()


async def test_a_repository_behind_a_proxy_is_read_also_after_it_was_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount server closes those that nobody needs; one that is needed again must not be dead for good."""
    settings = Settings(cache_dir=tmp_path, run_dir=tmp_path, insecure_registries=("registry.example",))
    async with serve_script(answer_all) as proxy:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        repository = RegistryRepository("registry.example", "app", settings)
        blob = BlobRef(sha256_digest(b"hello"), 5)
        assert await repository.read_range(blob, 0, 5) == b"hello"
        await repository.aclose()
        assert await repository.read_range(blob, 0, 5) == b"hello"
        await repository.aclose()
        assert proxy.connections == 2


READ_AS_A_MOUNT_SERVER = """
import sys, trio
from pathlib import Path
from cafs.core.settings import Settings
from cafs.core.source import BlobRef
from cafs.node.keeper import set_up_log
from cafs.oci.registry.repository import RegistryRepository

async def main():
    settings = Settings(cache_dir=Path("/c"), run_dir=Path("/r"), insecure_registries=("registry.example",))
    repository = RegistryRepository("registry.example", "app", settings)
    print(await repository.read_range(BlobRef("sha256:" + "0" * 64, 5), 0, 5))

set_up_log(None)
trio.run(main)
"""


async def test_no_signed_address_is_in_the_log_of_a_mount() -> None:
    async def answer(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while head := await server.read_request(stream):
            moved = b"HTTP/1.1 307 Moved\r\nLocation: http://storage.example/x?Signature=secret\r\n"
            await stream.send_all(OK if b"Signature" in head else moved + b"Content-Length: 0\r\n\r\n")

    async with serve_script(answer) as proxy:
        environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        done = await trio.run_process(
            [sys.executable, "-c", READ_AS_A_MOUNT_SERVER],
            env={**environment, "http_proxy": f"http://{proxy.host}"},
            capture_stdout=True,
            capture_stderr=True,
        )
    assert done.stdout == b"b'hello'\n"
    assert b"secret" not in done.stderr, done.stderr
