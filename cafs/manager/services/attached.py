"""One service with a stream to this replica, by itself or by way of a scheduler.

Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio

from cafs.daemon.carried_stream import CarriedStream, Room
from cafs.manager.clusters.placing import Candidate
from cafs.manager.services.incoming import Arrival, Kind
from cafs.proto import manager_pb2

_MOST_ANSWERS = 32
"""Waiting for one service."""


class Attached(CarriedStream):
    """See the module."""

    __slots__ = ("_answers", "_room", "arrival", "cluster", "heard_at", "runs", "schedulers", "written")

    def __init__(self, arrival: Arrival, room: Room) -> None:
        """``room``: for what waits to be said to all services."""
        super().__init__()
        self.arrival = arrival
        self.runs = arrival.runs
        self.cluster: Candidate | None = None
        self.schedulers: tuple[str, ...] = ()
        """Whom it should ask."""
        self.heard_at = 0.0
        """By the loop's clock."""
        self.written: asyncio.Future[None] | None = None
        """Done when the database says that it is here; fails with ``UnavailableError``."""
        self._room = room
        self._answers: list[manager_pb2.ToService] = []

    def tell(self, message: manager_pb2.ToService) -> None:
        """Have it sent; passed over when the service does not take what it is sent."""
        if not self.ended and len(self._answers) < _MOST_ANSWERS and self._room.take(message.ByteSize()):
            self._answers.append(message)
            self.on_news()

    def take_answers(self) -> list[manager_pb2.ToService]:
        """What is to be sent next."""
        answers, self._answers = self._answers, []
        self._room.give_back(sum(answer.ByteSize() for answer in answers))
        return answers

    def let_go(self) -> None:
        """Nothing carries it any more."""
        super().let_go()
        self.take_answers()

    @property
    def is_peer(self) -> bool:
        """It asks schedulers."""
        return self.arrival.kind in {Kind.PEER, Kind.SEED}
