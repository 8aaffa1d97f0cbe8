"""``python -m bench.manager.hosts HOST:PORT COUNT``: peers, each with a connection.

They say that they live as often as the manager wants, and report as often as it wants, each time as much as
a busy peer does: a dozen figures, four tasks of 300, one application of 20, levels. Ends with its input.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from contextlib import suppress
from random import Random

import grpc

from cafs.proto import manager_pb2
from cafs.proto.services import methods_of

_AT_ONCE = 64
"""Hosts that come in at the same time."""
_RNG = Random(7)
(_ATTACH,) = methods_of(manager_pb2.DESCRIPTOR, "Manager")
_TASKS = [secrets.token_hex(32) for _ in range(300)]


async def _run(address: str, count: int) -> None:
    room = asyncio.Semaphore(_AT_ONCE)
    hosts = [asyncio.create_task(_host(address, number, room)) for number in range(count)]
    await asyncio.to_thread(sys.stdin.read)
    for host in hosts:
        host.cancel()
    await asyncio.gather(*hosts, return_exceptions=True)


async def _host(address: str, number: int, room: asyncio.Semaphore) -> None:
    channel = grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
    attach = channel.stream_stream(_ATTACH.path, _ATTACH.serialize_request, _ATTACH.parse_response)
    async with channel:
        async with room:
            call = attach()
            await call.write(_hello(number))
            welcome = (await call.read()).welcome
        alive = asyncio.create_task(_live(call, welcome.alive_every_ms / 1000))
        try:
            await _report(call, _RNG.uniform(0, 5))
        finally:
            alive.cancel()


async def _live(call: grpc.aio.StreamStreamCall, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        await call.write(manager_pb2.FromService(alive=manager_pb2.Alive()))


async def _report(call: grpc.aio.StreamStreamCall, pause_s: float) -> None:
    life, number = secrets.token_hex(16), 0
    while True:
        await asyncio.sleep(pause_s)
        number += 1
        await call.write(manager_pb2.FromService(report=_figures(life, number)))
        while (message := await call.read()).WhichOneof("message") != "counted":
            pass
        pause_s = message.counted.next_in_ms / 1000


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
        asyncio.run(_run(sys.argv[1], int(sys.argv[2])))
