"""``python -m bench.manager.hosts HOST:PORT,HOST:PORT... COUNT``: peers, each with a connection to one.

They say that they live as often as the manager wants, and report as often as it wants, each time as much as
a busy peer does: a dozen figures, four tasks of 300, one application of 20, levels. They check each
configuration that they are sent, and say that it holds. Once a version holds in all of them, a line says so:
its number, and for each of them when that was. Ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from random import Random

import grpc

from cafs.core.live.document import parse_document
from cafs.proto import manager_pb2
from cafs.proto.services import method_of
from demo.process import DemoError

_AT_ONCE = 64
"""Hosts that come in at the same time."""
_RNG = Random(7)
_ATTACH = method_of(manager_pb2.DESCRIPTOR, "Manager", "Attach")
_TASKS = [secrets.token_hex(32) for _ in range(300)]


@dataclass(frozen=True, slots=True)
class Pushed:
    """A version of the configuration, and when it held in each of the hosts."""

    version: int
    held_ns: list[int]
    """By the machine's monotonic clock, the first one first."""


class Hosts:
    """The process, from outside."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def pushed(self) -> Pushed:
        """The next version that holds in all of them; waits for it.

        Raises:
            DemoError: the process has ended.
        """
        assert self._process.stdout is not None
        if not (line := self._process.stdout.readline()):
            raise DemoError("the simulated hosts have ended")
        version, *held_ns = map(int, line.split())
        return Pushed(version, sorted(held_ns))


@contextmanager
def open_hosts(addresses: Sequence[str], count: int, inside: Sequence[str] = ()) -> Iterator[Hosts]:
    """Have so many of them until the context ends, at the manager or schedulers.

    Args:
        addresses: HOST:PORT, in turns.
        count: Of hosts.
        inside: Words before their command.
    """
    command = [*inside, sys.executable, "-m", "bench.manager.hosts", ",".join(addresses), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Hosts(process)
        finally:
            process.kill()


async def _run(addresses: Sequence[str], count: int) -> None:
    room, holding, address = asyncio.Semaphore(_AT_ONCE), _Holding(count), cycle(addresses)
    hosts = [asyncio.create_task(_Host(number, holding).run(next(address), room)) for number in range(count)]
    await asyncio.to_thread(sys.stdin.read)
    for host in hosts:
        host.cancel()
    await asyncio.gather(*hosts, return_exceptions=True)


class _Holding:
    """Which version holds in how many; tells, as a line, once it is in all."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._held: dict[int, list[int]] = {}

    def note(self, version: int) -> None:
        """In one more."""
        held = self._held.setdefault(version, [])
        held.append(time.monotonic_ns())
        if len(held) == self._count:
            print(version, *self._held.pop(version), flush=True)


class _Host:
    """One of them."""

    def __init__(self, number: int, holding: _Holding) -> None:
        self._number = number
        self._holding = holding
        self._call: grpc.aio.StreamStreamCall
        self._writing = asyncio.Lock()
        self._counted: asyncio.Queue[float] = asyncio.Queue()
        """Seconds until the next report is wanted."""

    async def run(self, address: str, room: asyncio.Semaphore) -> None:
        channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        attach = channel.stream_stream(_ATTACH.path, _ATTACH.serialize_request, _ATTACH.parse_response)
        async with channel:
            async with room:
                self._call = attach()
                await self._say(_hello(self._number))
                welcome = (await self._call.read()).welcome
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._hear())
                tasks.create_task(self._live(welcome.alive_every_ms / 1000))
                tasks.create_task(self._report(_RNG.uniform(0, 5)))

    async def _say(self, message: manager_pb2.FromService) -> None:
        async with self._writing:
            await self._call.write(message)

    async def _hear(self) -> None:
        while isinstance(message := await self._call.read(), manager_pb2.ToService):
            match message.WhichOneof("message"):
                case "counted":
                    self._counted.put_nowait(message.counted.next_in_ms / 1000)
                case "configuration":
                    await self._obey(message.configuration)

    async def _obey(self, told: manager_pb2.Configuration) -> None:
        """Check it as a peer does, and say that it holds."""
        if not told.version:
            return
        parse_document(json.loads(told.document), "scheduler")
        self._holding.note(told.version)
        running = manager_pb2.Running(cluster_id=told.cluster_id, version=told.version)
        await self._say(manager_pb2.FromService(running=running))

    async def _live(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._say(manager_pb2.FromService(alive=manager_pb2.Alive()))

    async def _report(self, pause_s: float) -> None:
        life, number = secrets.token_hex(16), 0
        while True:
            await asyncio.sleep(pause_s)
            number += 1
            await self._say(manager_pb2.FromService(report=_figures(life, number)))
            pause_s = await self._counted.get()


def _hello(number: int) -> manager_pb2.FromService:
    return manager_pb2.FromService(
        hello=manager_pb2.Hello(
            protocol_version=1,
            host_id=f"{number:032x}",
            kind=manager_pb2.PEER,
            hostname=f"node{number}",
            address=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:65002",
            version="bench",
        )
    )


def _figures(life: str, number: int) -> manager_pb2.Report:
    tasks = _RNG.sample(_TASKS, 4)
    return manager_pb2.Report(
        life=life,
        number=number,
        all=_counts(4),
        tasks=[manager_pb2.Part(name=task, counts=_counts(1)) for task in tasks],
        applications=[manager_pb2.Part(name=f"application {_RNG.randrange(20)}", counts=_counts(2))],
        levels=manager_pb2.Levels(store_bytes=_RNG.randrange(20 << 30), task_bytes=_RNG.randrange(20 << 30)),
    )


def _counts(times: int) -> manager_pb2.Counts:
    return manager_pb2.Counts(
        origin_bytes=times << 20,
        seed_bytes=times << 22,
        peer_bytes=times << 24,
        local_bytes=times << 20,
        upload_bytes=times << 24,
        downloads_succeeded=times,
        pieces_succeeded=5 * times,
        pieces_failed=times,
        chunks_brought=9 * times,
        first_bytes=2 * times,
        first_byte_ms=90 * times,
        first_byte_up_to_100=2 * times,
    )


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_run(sys.argv[1].split(","), int(sys.argv[2])))
