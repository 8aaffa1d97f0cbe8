"""Hosts that misbehave in a swarm: who downloads gets the right bytes, the culprit is named, nobody else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import blake3
import pytest
import trio

from cafs.core.scheduling.core import Scheduling
from cafs.core.scheduling.events import Held, HostHello, Meta, TaskSpec
from cafs.core.scheduling.limits import Limits
from cafs.core.swarm.messages import FailReason
from cafs.core.swarm.peer_limits import PeerLimits
from cafs.errors import CafsError
from cafs.p2p import parent_client
from cafs.p2p.content import Wish
from cafs.p2p.engine import spec_of
from cafs.proto import p2p_pb2
from tests.support.grid import Grid, GridHost, grid, until
from tests.support.logs import ExpectedLogs
from tests.support.proxying import Origin
from tests.support.scripted_server import ScriptedServer, serve_script

MIB = 1 << 20
BODY = os.urandom(4 * MIB + 321)
PIECES = [BODY[at : at + MIB] for at in range(0, len(BODY), MIB)]
DIGESTS = [blake3.blake3(piece).digest() for piece in PIECES]
BAD = "b" * 32
"""The id of the host that misbehaves."""
pytestmark = pytest.mark.usefixtures("bounded")

Script = Callable[[ScriptedServer, trio.SocketStream], Awaitable[None]]


def head(size: int, number: int = 0) -> bytes:
    digest = DIGESTS[number % len(DIGESTS)].hex()
    return f"HTTP/1.1 200 OK\r\nX-Cafs-Digest: {digest}\r\nContent-Length: {size}\r\n\r\n".encode()


def asked_for(request: bytes) -> int | None:
    """The number of the piece that is asked for."""
    target = request.split()[1].partition(b"?")[0]
    return int(target.rpartition(b"/")[2]) if b"/pieces/" in target else None


def pieces_by(answer: Callable[[trio.SocketStream, int], Awaitable[None]]) -> Script:
    """A host that is silent but for pieces."""

    async def script(server: ScriptedServer, stream: trio.SocketStream) -> None:
        while request := await server.read_request(stream):
            number = asked_for(request)
            if number is None:
                await trio.sleep_forever()
            else:
                await answer(stream, number)

    return script


async def wrong(stream: trio.SocketStream, number: int) -> None:
    await stream.send_all(head(len(PIECES[number]), number) + bytes(len(PIECES[number])))


async def short(stream: trio.SocketStream, number: int) -> None:
    await stream.send_all(head(len(PIECES[number]), number) + PIECES[number][:1000])
    await stream.aclose()


async def of_another_size(stream: trio.SocketStream, number: int) -> None:
    await stream.send_all(head(5, number) + b"12345")


async def endless(stream: trio.SocketStream, number: int) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + bytes(0x10000) + b"\r\n")


async def late(stream: trio.SocketStream, number: int) -> None:
    await stream.send_all(head(len(PIECES[number]), number))
    for byte in PIECES[number]:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.2)


async def lying_of_what_it_has(stream: trio.SocketStream, _number: int) -> None:
    await stream.send_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")


async def vanishing(stream: trio.SocketStream, _number: int) -> None:
    await stream.aclose()


BLAMED = [
    (wrong, FailReason.CORRUPT),
    (short, FailReason.GONE),
    (of_another_size, FailReason.CORRUPT),
    (endless, FailReason.CORRUPT),
    (late, FailReason.SLOW),
    (lying_of_what_it_has, FailReason.GONE),
    (vanishing, FailReason.GONE),
]


def told_of(swarm: Grid, origin: Origin, address: str) -> None:
    """The scheduler believes that the bad host holds all: it says so in its hello."""
    assert swarm.scheduler is not None
    spec = spec_of(Wish(url=f"{origin.url}/f"))
    held = Held(
        spec=TaskSpec(task_id=spec.task_id, url=spec.url),
        meta=Meta(content_bytes=len(BODY), piece_bytes=MIB, headers=(("etag", '"1"'),)),
        have=(1 << len(PIECES)) - 1,
        digests=b"".join(DIGESTS),
    )
    swarm.scheduler.streams[BAD] = lambda _: None
    hello = HostHello(host_id=BAD, address=address, upload_limit=64, held=(held,))
    swarm.scheduler.hear(hello)


class Blames:
    """What hosts told the scheduler of pieces that did not come."""

    def __init__(self, swarm: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
        assert swarm.scheduler is not None
        self.of: dict[str, set[str]] = {}
        hear = swarm.scheduler.hear

        def note(event: Any) -> None:
            if type(event).__name__ == "PieceFailed":
                self.of.setdefault(event.parent, set()).add(event.reason.name)
            hear(event)

        monkeypatch.setattr(swarm.scheduler, "hear", note)


@asynccontextmanager
async def swarm_with(
    folder: Path, origin: Origin, script: Script
) -> AsyncIterator[tuple[Grid, list[GridHost]]]:
    """An honest host that has it all, three that have nothing, and one more that says that it has it all."""
    origin.page(
        "/f", BODY, etag='"1"', cache_control="max-age=3600"
    )  # nobody need ask it whether it is the same
    async with serve_script(script) as server, grid(folder) as swarm:
        honest = await swarm.host()
        assert await honest.get(Wish(url=f"{origin.url}/f")) == BODY
        told_of(swarm, origin, server.host)
        yield swarm, [await swarm.host() for _ in range(3)]


@pytest.mark.parametrize(("misbehave", "reason"), BLAMED)
async def test_a_bad_host_is_named_and_harms_nobody(
    tmp_path: Path,
    origin: Origin,
    monkeypatch: pytest.MonkeyPatch,
    misbehave: Callable[[trio.SocketStream, int], Awaitable[None]],
    reason: FailReason,
) -> None:
    if reason is FailReason.SLOW:  # else nobody is waited for, and a slow machine is not to be blamed
        monkeypatch.setattr(parent_client, "SILENCE_S", 1.0)
    async with swarm_with(tmp_path, origin, pieces_by(misbehave)) as (swarm, hosts):
        blames = Blames(swarm, monkeypatch)
        before = len(origin.asked)
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(get_right, host, origin)
        assert len(origin.asked) == before, "the honest host has all of it"
        assert reason.name in blames.of[BAD]
        assert set(blames.of) == {BAD}
        for host in hosts:
            task = host.store.find(spec_of(Wish(url=f"{origin.url}/f")).task_id)
            assert task is not None
            assert b"".join([await task.read_piece(n) for n in range(len(PIECES))]) == BODY
        # All others know at once of who sends what it should not.
        assert swarm.scheduler is not None
        assert swarm.scheduler.core.state.court.shunned(BAD) == (reason is FailReason.CORRUPT)


async def get_right(host: GridHost, origin: Origin) -> None:
    assert await host.get(Wish(url=f"{origin.url}/f")) == BODY


NOBODY = [
    p2p_pb2.Member(host_id=f"{n:032x}", address="no address", score=float("nan"), complete=True)
    for n in range(500, 530)
]
"""Hosts that do not exist."""
NONSENSE = [
    p2p_pb2.ToHost(),
    p2p_pb2.ToHost(members=p2p_pb2.Members(task_id="x")),
    p2p_pb2.ToHost(source=p2p_pb2.GoToSource(peer_id="nobody")),
    p2p_pb2.ToHost(digests=p2p_pb2.PieceDigests(task_id="TASK", first=1000, digests=b"x" * 320)),
    p2p_pb2.ToHost(digests=p2p_pb2.PieceDigests(task_id="TASK", first=1 << 31, digests=b"x" * 32)),
    p2p_pb2.ToHost(
        members=p2p_pb2.Members(
            task_id="TASK",
            gone=["z"],
            self_at_source=True,
            members=NOBODY,
        )
    ),
    p2p_pb2.ToHost(meta=p2p_pb2.TaskMeta(task_id="TASK", content_bytes=-1, piece_bytes=MIB)),
    p2p_pb2.ToHost(limits=p2p_pb2.SetLimits(concurrent_uploads=0, upload_bytes_per_s=1 << 60)),
]
"""TASK stands for the task."""


@pytest.mark.parametrize("place", range(len(NONSENSE)))
async def test_a_scheduler_that_speaks_nonsense(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs, place: int
) -> None:
    """Before each thing that it has to say, it says what makes no sense: it costs time at most."""
    expected_logs.allow("nonsense|cannot be|bitmap|digests are none|limit|task id|member")
    task = spec_of(Wish(url=f"{origin.url}/f")).task_id
    for kind in ("members", "digests", "meta"):
        if NONSENSE[place].HasField(kind):
            getattr(NONSENSE[place], kind).task_id = getattr(NONSENSE[place], kind).task_id.replace(
                "TASK", task
            )
    async with grid(tmp_path) as swarm:
        assert swarm.scheduler is not None
        swarm.scheduler.nonsense = NONSENSE[place]
        hosts = [await swarm.host() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(get_right, host, origin)
        assert sum(host.figures.unforeseen for host in hosts) == 0


async def test_a_scheduler_that_names_nobody_and_says_that_nobody_is_sent(
    tmp_path: Path, origin: Origin, expected_logs: ExpectedLogs
) -> None:
    """Whom it sent to the source it calls back, and all parents that it names are none."""
    expected_logs.allow("member")
    task = spec_of(Wish(url=f"{origin.url}/f")).task_id
    async with grid(tmp_path) as swarm:
        assert swarm.scheduler is not None
        swarm.scheduler.core = Scheduling(Limits(stall_s=1.0), Random(1))
        swarm.scheduler.nonsense = p2p_pb2.ToHost(members=p2p_pb2.Members(task_id=task, members=NOBODY))
        hosts = [await swarm.host() for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(get_right, host, origin)
        assert sum(host.figures.unforeseen for host in hosts) == 0


async def test_a_task_deleted_while_parents_send_it(tmp_path: Path, origin: Origin) -> None:
    """Its readers hear that; it is no surprise."""
    async with grid(tmp_path) as swarm:
        honest = await swarm.host()
        await get_right(honest, origin)
        host = await swarm.host(limits=PeerLimits(download_bytes_per_s=2 * MIB))
        task = spec_of(Wish(url=f"{origin.url}/f")).task_id
        async with trio.open_nursery() as nursery:

            async def fail() -> None:
                with pytest.raises(CafsError, match="deleted"):
                    await host.get(Wish(url=f"{origin.url}/f"))

            nursery.start_soon(fail)
            await until(lambda: host.figures.peer_bytes > 0)
            await host.store.delete(task)
        assert host.figures.unforeseen == 0
        await until(lambda: not host.engine.active)
        await get_right(host, origin)
