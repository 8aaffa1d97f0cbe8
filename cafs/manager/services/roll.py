"""Who is here: the services with a stream to this replica.

Belongs to the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable

import grpc

from cafs.daemon.carried_stream import Room
from cafs.manager.clusters.placing import Candidate
from cafs.manager.database import Database
from cafs.manager.services.attached import Attached
from cafs.manager.services.belonging import Belonging, Configured
from cafs.manager.services.host_writer import HostWriter
from cafs.manager.services.incoming import Arrival, Runs

log = logging.getLogger(__name__)

_MOST_STREAMS = 100_000
_WAITING_BYTES = 64 << 20
"""Of answers that services have not taken yet, of all together."""


class Roll:
    """See the module."""

    def __init__(self, database: Database, replica_id: str) -> None:
        self._here: dict[str, Attached] = {}
        self._room = Room(_WAITING_BYTES)
        self._belonging = Belonging(database)
        self._writer = HostWriter(database, replica_id, self._here)

    @property
    def connected(self) -> Counter[str]:
        """Streams by kind."""
        return Counter(attached.arrival.kind.value for attached in self._here.values())

    @property
    def hosts(self) -> int:
        """How many streams there are."""
        return len(self._here)

    async def load(self) -> None:
        """Read the clusters anew, and move whoever belongs to another one now.

        Raises:
            UnavailableError: the database does not answer.
        """
        changed = await self._belonging.load()
        moves: dict[str, int | None] = {}
        for host_id, attached in self._here.items():
            cluster = self._belonging.cluster_of(attached.arrival)
            if cluster != attached.cluster:
                attached.cluster = cluster
                attached.on_news()
                moves[host_id] = cluster.id if cluster is not None else None
            elif cluster is not None and cluster.id in changed:
                attached.on_news()
            schedulers = self._belonging.schedulers_of(attached)
            if schedulers != attached.schedulers:
                attached.schedulers = schedulers
                attached.on_news()
        self._writer.moved(moves)

    def configured(self, cluster: Candidate | None) -> Configured:
        """What holds in a cluster."""
        return self._belonging.configured(cluster)

    def have_told(self, host_ids: Iterable[str]) -> None:
        """There is something new to say to those of them that are here."""
        for host_id in host_ids:
            if (attached := self._here.get(host_id)) is not None:
                attached.on_news()

    def note_running(self, attached: Attached, runs: Runs) -> None:
        """A service says what it runs."""
        attached.runs = runs
        if self._here.get(attached.arrival.host_id) is attached:
            self._writer.runs(attached)

    def arrive(self, arrival: Arrival) -> Attached:
        """A stream begins; one that the host had before ends. ``leave`` it when it ends.

        Returns:
            It is being written (``written``), or has ended: there is no room.
        """
        attached = Attached(arrival, self._room)
        attached.heard_at = asyncio.get_running_loop().time()
        if len(self._here) >= _MOST_STREAMS and arrival.host_id not in self._here:
            attached.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for more hosts")
            return attached
        if (before := self._here.get(arrival.host_id)) is not None:
            before.end(grpc.StatusCode.ALREADY_EXISTS, "a newer stream of this host took over")
        attached.cluster = self._belonging.cluster_of(arrival)
        attached.schedulers = self._belonging.schedulers_of(attached)
        self._here[arrival.host_id] = attached
        attached.written = self._writer.arrived(attached)
        return attached

    def leave(self, attached: Attached) -> None:
        """A stream ended, for whatever reason."""
        attached.let_go()
        host_id = attached.arrival.host_id
        if self._here.get(host_id) is attached:
            del self._here[host_id]
            self._writer.left(host_id)

    def say_all_again(self) -> None:
        """The database was told that nobody is here: everybody is."""
        self._writer.all_again()

    def end_all(self, code: grpc.StatusCode, why: str) -> None:
        """All streams end."""
        for attached in list(self._here.values()):
            attached.end(code, why)

    def end_silent(self, since: float) -> None:
        """Those of whom nothing was heard since then."""
        for attached in list(self._here.values()):
            if attached.heard_at < since:
                log.info("host %s: nothing was heard for too long", attached.arrival.host_id)
                attached.end(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "nothing was heard for too long: connect again"
                )

    async def run(self) -> None:
        """Have the database say it, until cancelled; what is left then is the caller's: ``flush``."""
        await self._writer.run()

    async def flush(self) -> None:
        """Write what there is, at the end."""
        await self._writer.flush()
