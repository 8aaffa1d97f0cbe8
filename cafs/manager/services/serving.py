"""The services' side of the manager, composed: the roll, watches over changes, jobs, and gRPC on its port.

At the end health says so, services are told to come again, and what is not written yet is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from cafs.core.learning import MAX_BYTES
from cafs.daemon.grpc_health import HealthService
from cafs.daemon.grpc_server import Tls, listen, new_server
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.jobs.board import Board
from cafs.manager.jobs.schedules import start_due
from cafs.manager.jobs.steps import step_all
from cafs.manager.profiles.desk import ProfileDesk
from cafs.manager.replica import Pace, ThisReplica
from cafs.manager.services.reception import Reception
from cafs.manager.services.relays import Relays
from cafs.manager.services.roll import Roll
from cafs.manager.services.service import SERVICE, ManagerService
from cafs.manager.services.watch import Watch
from cafs.manager.statistics.collector import Collector
from cafs.manager.tally import Tally
from cafs.proto import manager_pb2

_GRACE_S = 3.0
_MESSAGE_BYTES = MAX_BYTES + (128 << 10)
"""That a service may send: a start, and everything else; a relay a word with that, and a little more."""
_STEP_EVERY_S = 5.0
"""Jobs are looked at so often, though none of them changed: hosts come, time is over, schedules are due."""


@dataclass(frozen=True, slots=True)
class Services:
    """What runs."""

    port: int
    roll: Roll
    relays: Relays
    watch: Watch
    jobs: Watch


@asynccontextmanager
async def services_served(
    database: Database,
    tally: Tally,
    replica: ThisReplica,
    place: tuple[str, int],
    *,
    tls: Tls | None,
    pace: Pace,
) -> AsyncIterator[Services]:
    """Serve while the context lasts.

    Raises:
        CafsError: the address cannot be had, a file of TLS cannot be read, or the database does not answer.
    """
    roll = Roll(database, replica.id)
    watch = Watch(database, roll.load)
    await watch.look()
    board = Board(database, roll.have_told)

    async def bring_on() -> None:
        await in_thread(partial(start_due, database))
        await in_thread(partial(step_all, database))
        await board.load()

    jobs = Watch(database, bring_on, of="jobs", at_least_every_s=_STEP_EVERY_S)
    mutual = tls is not None and tls.mutual
    desk, alive_every_s = ProfileDesk(database, tally), pace.alive_every_s
    collector = Collector(database, tally, lambda: roll.hosts, pace)
    welcome = manager_pb2.Welcome(replica_id=replica.id, alive_every_ms=round(alive_every_s * 1000))
    reception = Reception(roll, desk, board, collector, tally, welcome)
    relays = Relays(reception, database, mutual_tls=mutual)
    service = ManagerService(roll, reception, relays, mutual_tls=mutual, alive_every_s=alive_every_s)
    health = HealthService(SERVICE)
    server = new_server(_MESSAGE_BYTES)
    server.add_generic_rpc_handlers((service.handlers(), health.handlers()))
    port = listen(server, *place, tls)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(roll.flush)
        stack.push_async_callback(collector.flush)
        await stack.enter_async_context(cancelled_at_end(collector.run()))
        await stack.enter_async_context(cancelled_at_end(collector.tidy()))
        stack.push_async_callback(board.flush)
        await stack.enter_async_context(cancelled_at_end(roll.run()))
        await stack.enter_async_context(cancelled_at_end(watch.run()))
        await stack.enter_async_context(cancelled_at_end(desk.run()))
        await stack.enter_async_context(cancelled_at_end(jobs.run()))
        await stack.enter_async_context(cancelled_at_end(board.run(jobs.wake)))
        await stack.enter_async_context(cancelled_at_end(service.end_silent()))
        try:
            yield Services(port, roll, relays, watch, jobs)
        finally:
            health.end()
            for streams in (relays, roll):
                streams.end_all(grpc.StatusCode.UNAVAILABLE, "this manager ends: come again")
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE_S):
                    await service.drained()
            await server.stop(_GRACE_S)


@asynccontextmanager
async def cancelled_at_end(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run it beside what is in the context."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
