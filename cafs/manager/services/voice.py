"""What one service is to be told: where it belongs, what holds there, whom to ask, what to do, answers."""

from __future__ import annotations

from collections.abc import Iterator

from cafs.manager.clusters.placing import Candidate
from cafs.manager.jobs.board import Board
from cafs.manager.jobs.orders import Order, orders_message
from cafs.manager.services.attached import Attached
from cafs.manager.services.belonging import Configured
from cafs.manager.services.roll import Roll
from cafs.proto import manager_pb2


class Voice:
    """See the module. Knows what was said, so nothing has to wait here to be said."""

    __slots__ = ("_attached", "_board", "_ordered", "_placed", "_roll", "_schedulers", "_sent", "_welcome")

    def __init__(self, attached: Attached, roll: Roll, board: Board, welcome: manager_pb2.ToService) -> None:
        self._attached = attached
        self._welcome: manager_pb2.ToService | None = welcome
        self._roll = roll
        self._board = board
        self._placed: Candidate | str | None = "not yet"
        self._sent: tuple[int, int] | None = None
        self._schedulers: tuple[str, ...] | None = None if attached.is_peer else ()
        self._ordered: tuple[Order, ...] | None = None

    def take(self) -> list[manager_pb2.ToService]:
        """All that is new, in order; it counts as said. The first time it is something."""
        if self._attached.ended:
            return []
        first = [self._welcome] if self._welcome is not None else []
        self._welcome = None
        return [*first, *self._of_cluster(), *self._of_orders(), *self._attached.take_answers()]

    def _of_cluster(self) -> Iterator[manager_pb2.ToService]:
        cluster = self._attached.cluster
        configured = self._roll.configured(cluster)
        now = cluster.id if cluster is not None else 0, configured.version
        if cluster != self._placed:
            yield manager_pb2.ToService(placed=_placed(cluster))
        if now != self._sent:
            yield manager_pb2.ToService(configuration=_configuration(now[0], configured))
        if (schedulers := self._attached.schedulers) != self._schedulers:
            yield manager_pb2.ToService(schedulers=manager_pb2.Schedulers(addresses=schedulers))
        self._placed, self._sent, self._schedulers = cluster, now, schedulers

    def _of_orders(self) -> Iterator[manager_pb2.ToService]:
        if not self._attached.is_peer:
            return
        orders = self._board.orders_of(self._attached.arrival.host_id)
        if orders != self._ordered:
            self._ordered = orders
            yield orders_message(orders)


def _placed(cluster: Candidate | None) -> manager_pb2.Placed:
    if cluster is None:
        return manager_pb2.Placed()
    return manager_pb2.Placed(cluster_id=cluster.id, cluster_name=cluster.name)


def _configuration(cluster_id: int, configured: Configured) -> manager_pb2.Configuration:
    return manager_pb2.Configuration(
        cluster_id=cluster_id, version=configured.version, document=configured.document
    )
