"""What the database is to say of the services of this replica, written in batches.

One transaction after the other: ten thousand hosts that come back at once cost a few dozen. What cannot be
written now is written later. Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from cafs.errors import CafsError, UnavailableError
from cafs.manager.clusters.catalogue import hold_clusters, note_change
from cafs.manager.clusters.hosts import (
    forget_old,
    write_arrivals,
    write_departures,
    write_moves,
    write_runs,
)
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.jobs.ledger import forget_old_jobs
from cafs.manager.services.attached import Attached
from cafs.manager.services.incoming import Kind

log = logging.getLogger(__name__)

_AGAIN_S = 2.0
_SWEEP_S = 3600.0


@dataclass
class _Batch:
    """To be written."""

    arrivals: dict[str, Attached] = field(default_factory=dict)
    departures: dict[str, None] = field(default_factory=dict)
    moves: dict[str, int | None] = field(default_factory=dict)
    runs: dict[str, Attached] = field(default_factory=dict)
    """Who runs another configuration now."""
    written: asyncio.Future[None] | None = None


class HostWriter:
    """See the module."""

    def __init__(self, database: Database, replica_id: str, here: Mapping[str, Attached]) -> None:
        """Write with ``run``.

        Args:
            database: Where.
            replica_id: This one.
            here: Who is here now, by host.
        """
        self._database = database
        self._replica_id = replica_id
        self._here = here
        self._batch = _Batch()
        self._filled = asyncio.Event()

    def arrived(self, attached: Attached) -> asyncio.Future[None]:
        """It is here. Done when that is written; fails with ``UnavailableError``. Others wait for it too."""
        host_id, batch = attached.arrival.host_id, self._batch
        batch.departures.pop(host_id, None)
        batch.moves.pop(host_id, None)
        batch.arrivals[host_id] = attached
        if batch.written is None:
            batch.written = asyncio.get_running_loop().create_future()
        self._filled.set()
        return batch.written

    def left(self, host_id: str) -> None:
        """It is here no more."""
        self._batch.arrivals.pop(host_id, None)
        self._batch.departures[host_id] = None
        self._filled.set()

    def moved(self, moves: Mapping[str, int | None]) -> None:
        """Hosts belong to other clusters now, or to none."""
        self._batch.moves.update(moves)
        self._filled.set()

    def runs(self, attached: Attached) -> None:
        """It runs another configuration now."""
        self._batch.runs[attached.arrival.host_id] = attached
        self._filled.set()

    def all_again(self) -> None:
        """The database was told that nobody is here."""
        self._batch.arrivals.update(self._here)
        self._filled.set()

    async def run(self) -> None:
        """Write what is to be written, until cancelled; what is left then is the caller's: ``flush``."""
        loop = asyncio.get_running_loop()
        sweep_at = loop.time() + _SWEEP_S
        while True:
            await self._filled.wait()
            self._filled.clear()
            if not await self.flush():
                await asyncio.sleep(_AGAIN_S)
                self._filled.set()
            if loop.time() > sweep_at:
                sweep_at = loop.time() + _SWEEP_S
                await in_thread(self._sweep)

    async def flush(self) -> bool:
        """Write what there is, in one transaction; whether it could be."""
        batch, self._batch = self._batch, _Batch()
        if not (batch.arrivals or batch.departures or batch.moves or batch.runs):
            return True
        try:
            await in_thread(partial(self._write, batch, moved=self._moves_schedulers(batch)))
        except Exception as e:  # whatever it is, the batch is kept and written later
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

    def _moves_schedulers(self, batch: _Batch) -> bool:
        """Whether others are to be told of them. One that leaves is told of for an hour all the same."""
        moved = [self._here[host_id] for host_id in batch.moves if host_id in self._here]
        return any(each.arrival.kind is Kind.SCHEDULER for each in (*batch.arrivals.values(), *moved))

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
            write_runs(session, [{"id": host_id, **_running(told)} for host_id, told in batch.runs.items()])

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
            **_running(attached),
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
        except Exception:  # a mistake leaves old rows, and does not end all writing
            log.exception("a mistake in what is forgotten")


def _running(attached: Attached) -> dict[str, Any]:
    """The version counts only for the cluster that it is of."""
    runs, cluster = attached.runs, attached.cluster
    ours = runs.cluster_id == (cluster.id if cluster is not None else 0)
    return {"running": runs.version if ours else None, "refused": runs.refused if ours else ""}
