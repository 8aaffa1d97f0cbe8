"""Who is here: the services with a stream to this replica, and what the database says of them.

Belongs to the event loop's thread. Arrivals, departures and moves are written in batches, one transaction
after the other: ten thousand hosts that come back at once cost a few dozen. Clusters are kept in memory, so
that a host is placed without a question to the database.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import grpc

from cafs.errors import CafsError, UnavailableError
from cafs.manager.clusters.catalogue import candidates, hold_clusters, note_change
from cafs.manager.clusters.configurations import newest
from cafs.manager.clusters.hosts import (
    forget_old,
    scheduler_addresses,
    write_arrivals,
    write_departures,
    write_moves,
    write_runs,
)
from cafs.manager.clusters.placing import Candidate, find_cluster
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.jobs.ledger import forget_old_jobs
from cafs.manager.services.incoming import Arrival, Kind, Runs
from cafs.proto import manager_pb2

log = logging.getLogger(__name__)

_MOST_STREAMS = 100_000
_MOST_ANSWERS = 32
"""Waiting for one service."""
_AGAIN_S = 2.0
_SWEEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration of a cluster, as it is sent."""

    version: int = 0
    document: bytes = b""


class Attached:
    """One service with a stream. There are many: no task, lock or event of its own."""

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


@dataclass
class _Batch:
    """To be written."""

    arrivals: dict[str, Attached] = field(default_factory=dict)
    departures: dict[str, None] = field(default_factory=dict)
    moves: dict[str, int | None] = field(default_factory=dict)
    runs: dict[str, Attached] = field(default_factory=dict)
    """Who runs another configuration now."""
    written: asyncio.Future[None] | None = None


class Roll:
    """See the module."""

    def __init__(self, database: Database, replica_id: str) -> None:
        self._database = database
        self._replica_id = replica_id
        self._here: dict[str, Attached] = {}
        self._clusters: dict[str, list[Candidate]] = {}
        self._configurations: dict[int, Configured] = {}
        self._schedulers: dict[int, tuple[str, ...]] = {}
        """Addresses, by cluster."""
        self._batch = _Batch()
        self._filled = asyncio.Event()

    @property
    def connected(self) -> Counter[str]:
        """Streams by kind."""
        return Counter(attached.arrival.kind.value for attached in self._here.values())

    @property
    def hosts(self) -> int:
        """How many streams there are."""
        return len(self._here)

    def clusters(self, kind: str) -> list[Candidate]:
        """That a host of such a kind may belong to."""
        return self._clusters.get(kind, [])

    async def load(self) -> None:
        """Read the clusters anew, and move whoever belongs to another one now.

        Raises:
            UnavailableError: the database does not answer.
        """
        self._clusters, configurations, self._schedulers = await in_thread(self._read)
        before, self._configurations = self._configurations, configurations
        changed = {
            number
            for number in {*before, *configurations}
            if before.get(number) != configurations.get(number)
        }
        for host_id, attached in self._here.items():
            cluster = self._place(attached.arrival)
            if cluster != attached.cluster:
                attached.cluster = cluster
                attached.on_news()
                self._batch.moves[host_id] = cluster.id if cluster is not None else None
            elif cluster is not None and cluster.id in changed:
                attached.on_news()
            schedulers = self._schedulers_of(attached)
            if schedulers != attached.schedulers:
                attached.schedulers = schedulers
                attached.on_news()
        self._filled.set()

    def configured(self, cluster: Candidate | None) -> Configured:
        """What holds in a cluster."""
        return self._configurations.get(cluster.id if cluster is not None else 0, Configured())

    def have_told(self, host_ids: Iterable[str]) -> None:
        """There is something new to say to those of them that are here."""
        for host_id in host_ids:
            if (attached := self._here.get(host_id)) is not None:
                attached.on_news()

    def note_running(self, attached: Attached, runs: Runs) -> None:
        """A service says what it runs."""
        attached.runs = runs
        host_id = attached.arrival.host_id
        if self._here.get(host_id) is attached:
            self._batch.runs[host_id] = attached
            self._filled.set()

    def _read(
        self,
    ) -> tuple[dict[str, list[Candidate]], dict[int, Configured], dict[int, tuple[str, ...]]]:
        with self._database.reading() as session:
            found = {
                cluster_id: Configured(version, json.dumps(document).encode())
                for cluster_id, (version, document) in newest(session).items()
            }
            return candidates(session), found, scheduler_addresses(session)

    def _place(self, arrival: Arrival) -> Candidate | None:
        return find_cluster(self.clusters(arrival.kind.cluster_kind), arrival.place)

    def _schedulers_of(self, attached: Attached) -> tuple[str, ...]:
        """A seed serves the swarms that it would belong to as a peer."""
        if not attached.is_peer:
            return ()
        cluster = attached.cluster
        if attached.arrival.kind is Kind.SEED:
            cluster = find_cluster(self.clusters("scheduler"), attached.arrival.place)
        return self._schedulers.get(cluster.id, ()) if cluster is not None else ()

    async def arrive(self, arrival: Arrival) -> Attached:
        """A stream begins; one that the host had before ends. Returns when it is written.

        Raises:
            UnavailableError: the database does not answer.
        """
        attached = Attached(arrival)
        attached.heard_at = asyncio.get_running_loop().time()
        if len(self._here) >= _MOST_STREAMS and arrival.host_id not in self._here:
            attached.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for more hosts")
            return attached
        if (before := self._here.get(arrival.host_id)) is not None:
            before.end(grpc.StatusCode.ALREADY_EXISTS, "a newer stream of this host took over")
        attached.cluster = self._place(arrival)
        attached.schedulers = self._schedulers_of(attached)
        self._here[arrival.host_id] = attached
        self._batch.departures.pop(arrival.host_id, None)
        self._batch.moves.pop(arrival.host_id, None)
        self._batch.arrivals[arrival.host_id] = attached
        try:
            await self._written()
        except UnavailableError:
            self.leave(attached)
            raise
        return attached

    def leave(self, attached: Attached) -> None:
        """A stream ended, for whatever reason."""
        host_id = attached.arrival.host_id
        if self._here.get(host_id) is attached:
            del self._here[host_id]
            self._batch.arrivals.pop(host_id, None)
            self._batch.departures[host_id] = None
            self._filled.set()

    def say_all_again(self) -> None:
        """The database was told that nobody is here: everybody is."""
        self._batch.arrivals.update(self._here)
        self._filled.set()

    def end_all(self, code: grpc.StatusCode, why: str) -> None:
        """All streams end."""
        for attached in list(self._here.values()):
            attached.end(code, why)

    async def _written(self) -> None:
        batch = self._batch
        if batch.written is None:
            batch.written = asyncio.get_running_loop().create_future()
        self._filled.set()
        await asyncio.shield(batch.written)

    def end_silent(self, since: float) -> None:
        """Those of whom nothing was heard since then."""
        for attached in list(self._here.values()):
            if attached.heard_at < since:
                log.info("host %s: nothing was heard for too long", attached.arrival.host_id)
                attached.end(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "nothing was heard for too long: connect again"
                )

    async def run(self) -> None:
        """Write what is to be written, until cancelled; what is left then is the caller's: ``flush``."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + _SWEEP_S
        while True:
            await self._filled.wait()
            self._filled.clear()
            if not await self._write_one():
                await asyncio.sleep(_AGAIN_S)
                self._filled.set()
            if loop.time() > sweep_at:
                sweep_at = loop.time() + _SWEEP_S
                await in_thread(self._sweep)

    async def flush(self) -> None:
        """Write what there is, at the end."""
        await self._write_one()

    async def _write_one(self) -> bool:
        batch, self._batch = self._batch, _Batch()
        if not (batch.arrivals or batch.departures or batch.moves or batch.runs):
            return True
        try:
            await in_thread(partial(self._write, batch, moved=self._moves_schedulers(batch)))
        except Exception as e:
            if not isinstance(e, CafsError):
                log.exception("a mistake in what is written of hosts")
            self._take_back(batch)
            if batch.written is not None:
                batch.written.set_exception(UnavailableError("the database does not answer"))
                batch.written.exception()  # who waited may be gone, and that is no mistake
            return False
        if batch.written is not None:
            batch.written.set_result(None)
        return True

    def _take_back(self, batch: _Batch) -> None:
        """What could not be written is written later, but for what is not so any more."""
        self._batch.departures = {
            host_id: None
            for host_id in (*batch.departures, *self._batch.departures)
            if host_id not in self._here
        }
        self._batch.moves = {**batch.moves, **self._batch.moves}
        self._batch.runs = {**batch.runs, **self._batch.runs}
        self._batch.arrivals = {
            host_id: attached
            for host_id, attached in {**batch.arrivals, **self._batch.arrivals}.items()
            if self._here.get(host_id) is attached
        }

    def _write(self, batch: _Batch, *, moved: bool) -> None:
        now = datetime.now(UTC)
        with self._database.writing() as session:
            there = hold_clusters(session)
            rows = [self._row(attached, there, now) for attached in batch.arrivals.values()]
            write_arrivals(session, rows)
            write_departures(session, batch.departures, self._replica_id)
            write_moves(session, [move for move in batch.moves.items() if move[1] in {None, *there}])
            if moved:
                note_change(session)
            write_runs(session, [{"id": host_id, **self._runs(told)} for host_id, told in batch.runs.items()])

    def _moves_schedulers(self, batch: _Batch) -> bool:
        """Whether others are to be told of them. One that leaves is told of for an hour all the same."""
        moved = [self._here[host_id] for host_id in batch.moves if host_id in self._here]
        return any(each.arrival.kind is Kind.SCHEDULER for each in (*batch.arrivals.values(), *moved))

    def _runs(self, attached: Attached) -> dict[str, Any]:
        """The version counts only for the cluster that it is of."""
        runs, cluster = attached.runs, attached.cluster
        ours = runs.cluster_id == (cluster.id if cluster is not None else 0)
        return {"running": runs.version if ours else None, "refused": runs.refused if ours else ""}

    def _row(self, attached: Attached, there: Collection[int], now: datetime) -> dict[str, Any]:
        arrival, cluster = attached.arrival, attached.cluster
        return {
            "id": arrival.host_id,
            "kind": arrival.kind.value,
            "hostname": arrival.place.hostname,
            "address": arrival.address,
            "idc": arrival.idc,
            "location": arrival.location,
            "cafs_version": arrival.cafs_version,
            "cluster_id": cluster.id if cluster is not None and cluster.id in there else None,
            **self._runs(attached),
            "replica_id": self._replica_id,
            "active": True,
            "since": now,
            "first_seen_at": now,
        }

    def _sweep(self) -> None:
        try:
            with self._database.writing() as session:
                forget_old(session)
                forget_old_jobs(session)
                note_change(session)  # some schedulers left long enough ago
        except CafsError as e:
            log.info("old hosts and jobs are still there: %s", e)
