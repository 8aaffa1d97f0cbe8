"""The Manager service over grpc.aio: a stream for each scheduler, seed and peer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cafs.daemon.grpc_streams import RunningStreams, first_message
from cafs.daemon.host_certificate import mismatch
from cafs.errors import ProtocolError, UnavailableError
from cafs.manager.clusters.placing import Candidate
from cafs.manager.jobs.board import Board
from cafs.manager.jobs.orders import Order, orders_message, parse_order_report
from cafs.manager.profiles.desk import ProfileDesk
from cafs.manager.services.attached import Attached
from cafs.manager.services.belonging import Configured
from cafs.manager.services.incoming import parse_hello, parse_image, parse_report, parse_running
from cafs.manager.services.roll import Roll
from cafs.manager.statistics.collector import Collector
from cafs.manager.statistics.incoming import Told, parse_figures
from cafs.manager.statistics.rows import Arrived
from cafs.manager.tally import Tally
from cafs.proto import manager_pb2
from cafs.proto.services import methods_of

log = logging.getLogger(__name__)

SERVICE = "cafs.manager.v1.Manager"
_LAST_WRITE_S = 1.0
"""For a service to take what is being sent when its stream ends."""
_Context = grpc.aio.ServicerContext[Any, Any]


class ManagerService:
    """The handlers of the service."""

    def __init__(  # noqa: PLR0917 - composed once
        self,
        roll: Roll,
        desk: ProfileDesk,
        board: Board,
        tally: Tally,
        collector: Collector,
        replica_id: str,
        *,
        mutual_tls: bool,
        alive_every_s: float,
    ) -> None:
        self._roll = roll
        self._desk = desk
        self._board = board
        self._tally = tally
        self._collector = collector
        self._mutual_tls = mutual_tls
        self._alive_every_s = alive_every_s
        self._welcome = manager_pb2.Welcome(replica_id=replica_id, alive_every_ms=round(alive_every_s * 1000))
        self._running = RunningStreams()

    def handlers(self) -> grpc.GenericRpcHandler[Any, Any]:
        """For ``grpc.aio.Server.add_generic_rpc_handlers``."""
        (attach,) = methods_of(manager_pb2.DESCRIPTOR, "Manager")
        handler = grpc.stream_stream_rpc_method_handler(
            self._attach, attach.parse_request, attach.serialize_response
        )
        return grpc.method_handlers_generic_handler(SERVICE, {attach.name: handler})

    async def drained(self) -> None:
        """When no stream is left."""
        await self._running.drained()

    async def end_silent(self) -> None:
        """End streams on which nothing is heard for three times as long as should be, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._alive_every_s / 2)
            self._roll.end_silent(clock() - 3 * self._alive_every_s)

    async def _attach(self, requests: AsyncIterator[manager_pb2.FromService], context: _Context) -> None:
        with self._running.one_more():
            await self._serve(requests, context)

    async def _serve(self, requests: AsyncIterator[manager_pb2.FromService], context: _Context) -> None:
        try:
            arrival = parse_hello(await first_message(requests, "Hello"))
        except ProtocolError as e:
            await self._reject(context, grpc.StatusCode.INVALID_ARGUMENT, str(e))
            return
        if self._mutual_tls:
            wrong = mismatch(arrival.host_id, arrival.address, context.auth_context())
            if wrong:
                await self._reject(context, grpc.StatusCode.UNAUTHENTICATED, wrong)
                return
        try:
            attached = await self._roll.arrive(arrival)
        except UnavailableError as e:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(e))
            return
        self._tally.arrivals += 1
        log.info("%s %s (%s) is here", arrival.kind, arrival.host_id, arrival.address)
        await self._converse(attached, requests, context)

    async def _converse(
        self, attached: Attached, requests: AsyncIterator[manager_pb2.FromService], context: _Context
    ) -> None:
        voice, reading = _Voice(attached, context, self._roll, self._board), asyncio.current_task()
        assert reading is not None
        try:
            await context.write(manager_pb2.ToService(welcome=self._welcome))
            await voice.speak()
            attached.on_news = voice.on_news
            # Only a read may be cut short: a write that was leaves a call whose end cannot be told any more.
            attached.on_end = reading.cancel
            await self._listen(attached, requests)
        except asyncio.CancelledError:  # noqa: ASYNC103 - it was ended: there is something to say yet
            if not attached.ended:
                raise
        except Exception as e:  # the transport's: whatever it is, this stream is over
            log.info("host %s: its stream broke: %s", attached.arrival.host_id, type(e).__name__)
        finally:
            attached.on_end = attached.on_news = _nothing
            self._roll.leave(attached)
            await voice.end()
        if attached.ended and attached.code is not grpc.StatusCode.OK:
            await context.abort(attached.code, attached.why)

    async def _reject(self, context: _Context, code: grpc.StatusCode, why: str) -> None:
        self._tally.rejected += 1
        log.info("a stream of %s was rejected: %s", context.peer(), why)
        await context.abort(code, why)

    async def _listen(self, attached: Attached, requests: AsyncIterator[manager_pb2.FromService]) -> None:
        """Until the service ends the stream, or sends nonsense."""
        clock = asyncio.get_running_loop().time
        while not attached.ended:
            try:
                message = await anext(requests)
                attached.heard_at = clock()
                if message.WhichOneof("message") == "leaving":
                    return
                self._heed(attached, message)
                del message  # it has some KiB, and the next one comes in half a minute
            except StopAsyncIteration:
                return
            except ProtocolError as e:
                self._tally.rejected += 1
                attached.end(grpc.StatusCode.INVALID_ARGUMENT, str(e))

    def _heed(self, attached: Attached, message: manager_pb2.FromService) -> None:
        match message.WhichOneof("message"):
            case "hello":
                raise ProtocolError("a second Hello on one stream")
            case "running":
                self._roll.note_running(attached, parse_running(message.running))
            case "profile_wish":
                wish = message.profile_wish
                self._desk.wish(attached, parse_image(wish.image), parse_image(wish.held, may_lack=True))
            case "start_offer":
                self._desk.offer(attached, parse_image(message.start_offer.image))
            case "start_report":
                self._desk.report(attached, parse_report(message.start_report))
            case "report":
                self._take_figures(attached, parse_figures(message.report))
            case "order_report":
                self._board.note(attached.arrival.host_id, *parse_order_report(message.order_report))

    def _take_figures(self, attached: Attached, told: Told) -> None:
        cluster = attached.cluster

        def answer(next_in_s: float) -> None:
            attached.tell(manager_pb2.ToService(counted=_counted(told, next_in_s)))

        arrived = Arrived(attached.arrival.host_id, cluster.id if cluster is not None else 0, told)
        self._collector.take(arrived, answer)


class _Voice:
    """Tells one service where it belongs, what holds there, whom to ask, what to do, answers: what is new."""

    __slots__ = (
        "_attached",
        "_board",
        "_context",
        "_ordered",
        "_placed",
        "_roll",
        "_schedulers",
        "_sent",
        "_speaking",
    )

    def __init__(self, attached: Attached, context: _Context, roll: Roll, board: Board) -> None:
        self._attached = attached
        self._context = context
        self._roll = roll
        self._board = board
        self._placed: Candidate | str | None = "not yet"
        self._sent: tuple[int, int] | None = None
        self._schedulers: tuple[str, ...] | None = None if attached.is_peer else ()
        self._ordered: tuple[Order, ...] | None = None
        self._speaking: asyncio.Task[None] | None = None

    def on_news(self) -> None:
        """Say it, in a task that lasts as long as that takes."""
        if self._speaking is None or self._speaking.done():
            self._speaking = asyncio.create_task(self._speak_or_end())

    async def end(self) -> None:
        """Let what is being said be said, for a moment."""
        if self._speaking is not None and not self._speaking.done():
            await asyncio.wait([self._speaking], timeout=_LAST_WRITE_S)
            self._speaking.cancel()

    async def _speak_or_end(self) -> None:
        try:
            await self.speak()
        except Exception as e:  # the transport's, as above
            log.info("host %s: its stream broke: %s", self._attached.arrival.host_id, type(e).__name__)
            self._attached.end(grpc.StatusCode.OK)

    async def speak(self) -> None:
        """Until nothing is new."""
        while not self._attached.ended:
            if not (await self._speak_of_cluster() or await self._speak_of_orders() or await self._answer()):
                return

    async def _speak_of_cluster(self) -> bool:
        """Whether there was something to say."""
        cluster = self._attached.cluster
        configured = self._roll.configured(cluster)
        now = cluster.id if cluster is not None else 0, configured.version
        schedulers = self._attached.schedulers
        if (cluster, now, schedulers) == (self._placed, self._sent, self._schedulers):
            return False
        if cluster != self._placed:
            await self._context.write(manager_pb2.ToService(placed=_placed(cluster)))
        if now != self._sent:
            told = _configuration(now[0], configured)
            await self._context.write(manager_pb2.ToService(configuration=told))
        if schedulers != self._schedulers:
            named = manager_pb2.Schedulers(addresses=schedulers)
            await self._context.write(manager_pb2.ToService(schedulers=named))
        self._placed, self._sent, self._schedulers = cluster, now, schedulers
        return True

    async def _speak_of_orders(self) -> bool:
        """The same."""
        if not self._attached.is_peer:
            return False
        orders = self._board.orders_of(self._attached.arrival.host_id)
        if orders == self._ordered:
            return False
        await self._context.write(orders_message(orders))
        self._ordered = orders
        return True

    async def _answer(self) -> bool:
        """The same."""
        answers, self._attached.answers = self._attached.answers, []
        for answer in answers:
            await self._context.write(answer)
        return bool(answers)


def _nothing() -> None:
    pass


def _placed(cluster: Candidate | None) -> manager_pb2.Placed:
    if cluster is None:
        return manager_pb2.Placed()
    return manager_pb2.Placed(cluster_id=cluster.id, cluster_name=cluster.name)


def _counted(told: Told, next_in_s: float) -> manager_pb2.Counted:
    return manager_pb2.Counted(life=told.life, number=told.number, next_in_ms=round(next_in_s * 1000))


def _configuration(cluster_id: int, configured: Configured) -> manager_pb2.Configuration:
    return manager_pb2.Configuration(
        cluster_id=cluster_id, version=configured.version, document=configured.document
    )
