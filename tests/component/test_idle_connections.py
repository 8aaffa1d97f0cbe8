"""Connections that are kept for the next request: whom they lead to, how many, and for how long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import pytest
import trio
import trio.testing

from cafs.core.proxying.address import parse_absolute
from cafs.core.proxying.guard import parse_guard
from cafs.core.swarm.ids import TaskId
from cafs.http11.idle import IdleConnections
from cafs.oci.registry.direct import DirectTransport
from cafs.oci.registry.exchange import Patience as TransportPatience
from cafs.p2p.parent_client import MOST_IDLE, ParentClient
from cafs.proxy.origin import OriginRequest, Origins, Patience
from tests.support.grid import until
from tests.support.patience import PATIENCE_S

META = b'{"content_bytes": 0, "piece_bytes": 1048576, "have": ""}'


class Thing:
    """As a connection."""

    def __init__(self, *, alive: bool = True) -> None:
        self.alive, self.closed = alive, False

    def is_alive(self) -> bool:
        return self.alive

    def close(self) -> None:
        self.closed = True


async def test_the_one_used_last_comes_first(autojump_clock: trio.testing.MockClock) -> None:
    idle: IdleConnections[str, Thing] = IdleConnections(10.0, most=4, most_of_one=2)
    first, second, third, dead = Thing(), Thing(), Thing(), Thing(alive=False)
    idle.keep("a", first)
    idle.keep("a", second)
    idle.keep("a", third)
    assert (first.closed, len(idle)) == (True, 2)
    idle.keep("b", dead)
    assert idle.take("b") is None
    assert dead.closed
    assert idle.take("a") is third
    await trio.sleep(11)
    assert idle.take("a") is None
    assert second.closed
    assert len(idle) == 0


async def test_who_waits_for_long_goes_whoever_comes_next(autojump_clock: trio.testing.MockClock) -> None:
    idle: IdleConnections[int, Thing] = IdleConnections(10.0, most=2, most_of_one=2)
    things = [Thing() for _ in range(4)]
    for number, thing in enumerate(things[:3]):
        idle.keep(number, thing)
        await trio.sleep(1)
    assert [thing.closed for thing in things] == [True, False, False, False]
    await trio.sleep(20)
    idle.keep(9, things[3])
    assert [thing.closed for thing in things] == [True, True, True, False]
    idle.close()
    assert things[3].closed


@dataclass
class Servers:
    """One for each address of loopback."""

    port: int
    begun: int = 0
    """Connections."""
    open: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer, and keep the connection."""
        self.begun, self.open = self.begun + 1, self.open + 1
        connection = h11.Connection(h11.SERVER)
        while True:
            while (event := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            if isinstance(event, h11.ConnectionClosed):
                self.open -= 1
                return
            if isinstance(event, h11.EndOfMessage):
                fields = [("content-length", str(len(META)))]
                answer = connection.send(h11.Response(status_code=200, headers=fields)) or b""
                answer += (connection.send(h11.Data(data=META)) or b"") + (connection.send(event) or b"")
                await stream.send_all(answer)
                connection.start_next_cycle()


@asynccontextmanager
async def serve_everywhere() -> AsyncIterator[Servers]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")
        servers = Servers(listeners[0].socket.getsockname()[1])
        await nursery.start(trio.serve_listeners, servers.serve, listeners)
        yield servers
        nursery.cancel_scope.cancel()


async def open_are(servers: Servers, count: int) -> None:
    with trio.fail_after(PATIENCE_S):
        await until(lambda: servers.open == count)


@pytest.mark.parametrize("who", ["proxy", "parents", "transport"])
async def test_many_servers_leave_few_connections(who: str) -> None:
    origins = Origins(parse_guard(["127.0.0.0/8"]), Patience(5, 5, 5))
    parents, transport = ParentClient(), DirectTransport(TransportPatience(5, 5, 5), 4, {})

    async def ask(address: str) -> None:
        if who == "proxy":
            url = parse_absolute(f"http://{address}/")
            answer = await origins.ask(OriginRequest("GET", url, [("host", address)]))
            await answer.receive_all(1 << 20)
            assert await answer.receive() == b""
            answer.close()
        elif who == "parents":
            await parents.fetch_meta(address, TaskId("0" * 64))
        else:
            exchange = await transport.send("GET", f"http://{address}/", {}, "test")
            while await exchange.receive():
                pass
            await exchange.aclose()

    most = 4 if who == "transport" else MOST_IDLE
    async with serve_everywhere() as servers:
        try:
            for number in range(most + 40):
                await ask(f"127.1.{number // 250}.{number % 250 + 1}:{servers.port}")
            await open_are(servers, most)
            await ask(f"127.1.{number // 250}.{number % 250 + 1}:{servers.port}")
            assert servers.begun == most + 40  # the last one was kept
        finally:
            origins.close()
            parents.close()
            await transport.aclose()
        await open_are(servers, 0)
