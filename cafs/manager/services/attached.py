"""One service with a stream to this replica. Belongs to the event loop's thread."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from cafs.manager.clusters.placing import Candidate
from cafs.manager.services.incoming import Arrival, Kind
from cafs.proto import manager_pb2

_MOST_ANSWERS = 32
"""Waiting for one service."""


class Attached:
    """See the module. There are many: no task, lock or event of its own."""

    __slots__ = (
        "answers",
        "arrival",
        "cluster",
        "code",
        "ended",
        "heard_at",
        "on_end",
        "on_news",
        "runs",
        "schedulers",
        "why",
    )

    def __init__(self, arrival: Arrival) -> None:
        self.arrival = arrival
        self.runs = arrival.runs
        self.cluster: Candidate | None = None
        self.schedulers: tuple[str, ...] = ()
        """Whom it should ask."""
        self.heard_at = 0.0
        """By the loop's clock."""
        self.ended = False
        self.code = grpc.StatusCode.OK
        self.why = ""
        self.on_news: Callable[[], object] = _nothing
        """Called when it may have to be told something."""
        self.on_end: Callable[[], object] = _nothing
        """Called once it has ended."""
        self.answers: list[manager_pb2.ToService] = []
        """To be sent next; bounded."""

    def tell(self, message: manager_pb2.ToService) -> None:
        """Have it sent; passed over when the service does not take what it is sent."""
        if len(self.answers) < _MOST_ANSWERS:
            self.answers.append(message)
            self.on_news()

    @property
    def is_peer(self) -> bool:
        """It asks schedulers."""
        return self.arrival.kind in {Kind.PEER, Kind.SEED}

    def end(self, code: grpc.StatusCode, why: str = "") -> None:
        """The first reason counts."""
        if not self.ended:
            self.ended, self.code, self.why = True, code, why
            self.on_end()


def _nothing() -> None:
    pass
