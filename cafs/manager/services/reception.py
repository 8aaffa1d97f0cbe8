"""A service's stream, whatever carries it: who comes, what it says, what it is told.

Belongs to the event loop's thread; nothing waits here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import grpc

from cafs.errors import ProtocolError
from cafs.manager.jobs.board import Board
from cafs.manager.jobs.orders import parse_order_report
from cafs.manager.profiles.desk import ProfileDesk
from cafs.manager.services.attached import Attached
from cafs.manager.services.incoming import Arrival, parse_image, parse_report, parse_running
from cafs.manager.services.roll import Roll
from cafs.manager.services.voice import Voice
from cafs.manager.statistics.collector import Collector
from cafs.manager.statistics.incoming import Told, parse_figures
from cafs.manager.statistics.rows import Arrived
from cafs.manager.tally import Tally
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)


class Reception:
    """See the module."""

    def __init__(  # noqa: PLR0917 - composed once
        self,
        roll: Roll,
        desk: ProfileDesk,
        board: Board,
        collector: Collector,
        tally: Tally,
        welcome: manager_pb2.Welcome,
    ) -> None:
        """``welcome``: what each service is told first."""
        self._roll = roll
        self._desk = desk
        self._board = board
        self._collector = collector
        self._tally = tally
        self._welcome = manager_pb2.ToService(welcome=welcome)

    def arrive(self, arrival: Arrival) -> Attached:
        """A stream begins; one that the host had before ends. See ``Roll.arrive``."""
        return self._roll.arrive(arrival)

    def welcome(self, attached: Attached) -> Callable[[], Sequence[manager_pb2.ToService]]:
        """It is written: what it is told from now on, which counts as said when it is asked for."""
        arrival = attached.arrival
        self._tally.arrivals += 1
        log.info("%s %s (%s) is here", arrival.kind, arrival.host_id, arrival.address)
        return Voice(attached, self._roll, self._board, self._welcome).take

    def leave(self, attached: Attached) -> None:
        """The stream ended, for whatever reason."""
        self._roll.leave(attached)

    def heed(self, attached: Attached, message: manager_pb2.FromService) -> None:
        """Do as a service says. Nonsense ends its stream, and so does ``Leaving``."""
        attached.heard_at = asyncio.get_running_loop().time()
        try:
            self._heed(attached, message)
        except ProtocolError as e:
            self.reject(attached, str(e))

    def note_rejected(self, who: str, why: str) -> None:
        """A stream was not begun."""
        self._tally.rejected += 1
        log.info("a stream of %s was rejected: %s", who, why)

    def reject(self, attached: Attached, why: str) -> None:
        """What it said is nonsense."""
        self._tally.rejected += 1
        attached.end(grpc.StatusCode.INVALID_ARGUMENT, why)

    def _heed(self, attached: Attached, message: manager_pb2.FromService) -> None:
        match message.WhichOneof("message"):
            case "hello":
                raise ProtocolError("a second Hello on one stream")
            case "leaving":
                attached.end(grpc.StatusCode.OK)
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


def _counted(told: Told, next_in_s: float) -> manager_pb2.Counted:
    return manager_pb2.Counted(life=told.life, number=told.number, next_in_ms=round(next_in_s * 1000))
