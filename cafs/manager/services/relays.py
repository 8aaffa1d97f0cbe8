"""Which schedulers pass on the streams of hosts, and that they may. Belongs to the event loop's thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import grpc

from cafs.core.host_address import parse_address
from cafs.daemon.carried_stream import CarriedStream, Context, nothing
from cafs.daemon.grpc_streams import first_message
from cafs.daemon.host_certificate import mismatch
from cafs.errors import ProtocolError, UnavailableError
from cafs.manager.clusters.hosts import is_scheduler
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.services.incoming import parse_host_id
from cafs.manager.services.reception import Reception
from cafs.manager.services.relay import Relay
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

_LAST_WRITE_S = 1.0
"""For a scheduler to take what is being sent when its relay ends."""


class RefusedError(Exception):
    """A relay is not begun."""

    def __init__(self, code: grpc.StatusCode, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(eq=False)
class _Open:
    """One relay."""

    relay: Relay
    stream: CarriedStream


class Relays:
    """See the module."""

    def __init__(self, reception: Reception, database: Database, *, mutual_tls: bool) -> None:
        self._reception = reception
        self._database = database
        self._mutual_tls = mutual_tls
        self._open: dict[str, _Open] = {}
        """By scheduler."""

    @property
    def hosts(self) -> list[int]:
        """How many come by each relay."""
        return [each.relay.hosts for each in self._open.values()]

    async def serve(self, requests: AsyncIterator[manager_pb2.FromScheduler], context: Context) -> None:
        """One relay, until it ends."""
        try:
            who = (await first_message(requests, "Relaying")).relaying
            await self._admit(who, context)
        except ProtocolError as e:
            await self._reject(context, grpc.StatusCode.INVALID_ARGUMENT, str(e))
            return
        except RefusedError as e:
            await self._reject(context, e.code, str(e))
            return
        except UnavailableError as e:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(e))
            return
        log.info("scheduler %s (%s) passes on hosts", who.host_id, who.address)
        await self._carry(who.host_id, requests, context)

    def end_all(self, code: grpc.StatusCode, why: str) -> None:
        """All relays end, and what they carry with them."""
        for each in list(self._open.values()):
            each.stream.end(code, why)

    async def _admit(self, who: manager_pb2.Relaying, context: Context) -> None:
        """
        Raises:
            ProtocolError: it says nothing of itself.
            RefusedError: it may not.
            UnavailableError: the database does not answer.
        """
        host_id, address = parse_host_id(who.host_id), parse_address(who.address)
        if self._mutual_tls and (wrong := mismatch(host_id, address, context.auth_context())):
            raise RefusedError(grpc.StatusCode.UNAUTHENTICATED, wrong)

        def is_one() -> bool:
            with self._database.reading() as session:
                return is_scheduler(session, host_id, address)

        if not await in_thread(is_one):
            why = "only a scheduler that is attached itself, by this id and address, may relay"
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, why)

    async def _carry(
        self, name: str, requests: AsyncIterator[manager_pb2.FromScheduler], context: Context
    ) -> None:
        stream, relay = CarriedStream(), Relay(self._reception, context.write, name)
        if (before := self._open.get(name)) is not None:
            before.stream.end(grpc.StatusCode.ALREADY_EXISTS, "a newer relay of this scheduler took over")
        self._open[name] = each = _Open(relay, stream)
        speaking: asyncio.Task[None] | None = None
        reading = asyncio.current_task()
        assert reading is not None
        try:
            await context.write(manager_pb2.ToScheduler())
            speaking = asyncio.create_task(relay.speak())
            speaking.add_done_callback(partial(_end_with, stream))
            stream.on_end = reading.cancel
            if not stream.ended:
                await relay.listen(requests)
        except asyncio.CancelledError:  # noqa: ASYNC103 - it was ended: there is something to say yet
            if not stream.ended:
                raise
        except ProtocolError as e:
            stream.on_end = nothing  # whoever reads has ended it
            stream.end(grpc.StatusCode.INVALID_ARGUMENT, str(e))
        except Exception as e:  # the transport's: whatever it is, this relay is over
            log.info("the relay of scheduler %s broke: %s", name, type(e).__name__)
        finally:
            stream.let_go()
            if self._open.get(name) is each:
                del self._open[name]
            relay.end()
            # A write that was cancelled leaves a call whose end cannot be told any more.
            if speaking is not None:
                await asyncio.wait([speaking], timeout=_LAST_WRITE_S)
                speaking.cancel()
            log.info("scheduler %s passes on hosts no more", name)
        if stream.code is not grpc.StatusCode.OK:
            await context.abort(stream.code, stream.why)

    async def _reject(self, context: Context, code: grpc.StatusCode, why: str) -> None:
        self._reception.note_rejected(context.peer(), why)
        await context.abort(code, why)


def _end_with(stream: CarriedStream, speaking: asyncio.Task[None]) -> None:
    """Whoever cannot be spoken to any more is not heard either."""
    if not speaking.cancelled() and (error := speaking.exception()) is not None:
        log.info("a relay broke: %s", type(error).__name__)
    stream.end(grpc.StatusCode.OK)
