"""Where services belong, what holds there, and whom they should ask.

Clusters are kept in memory, so that a host is placed without a question to the database. Belongs to the event
loop's thread.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from cafs.manager.clusters.catalogue import candidates
from cafs.manager.clusters.configurations import newest
from cafs.manager.clusters.hosts import scheduler_addresses
from cafs.manager.clusters.placing import Candidate, find_cluster
from cafs.manager.database import Database
from cafs.manager.in_thread import in_thread
from cafs.manager.services.attached import Attached
from cafs.manager.services.incoming import Arrival, Kind


@dataclass(frozen=True, slots=True)
class Configured:
    """The configuration of a cluster, as it is sent."""

    version: int = 0
    document: bytes = b""


class Belonging:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._clusters: dict[str, list[Candidate]] = {}
        """By the kind of hosts in them."""
        self._configurations: dict[int, Configured] = {}
        self._schedulers: dict[int, tuple[str, ...]] = {}
        """Addresses, by cluster."""

    async def load(self) -> set[int]:
        """Read the clusters anew.

        Returns:
            Those whose configuration is another one now.

        Raises:
            UnavailableError: the database does not answer.
        """
        before = self._configurations
        self._clusters, self._configurations, self._schedulers = await in_thread(self._read)
        now = self._configurations
        return {number for number in {*before, *now} if before.get(number) != now.get(number)}

    def cluster_of(self, arrival: Arrival) -> Candidate | None:
        """The cluster that it belongs to."""
        return self._find(arrival.kind.cluster_kind, arrival)

    def schedulers_of(self, attached: Attached) -> tuple[str, ...]:
        """A seed serves the swarms that it would belong to as a peer."""
        if not attached.is_peer:
            return ()
        cluster = attached.cluster
        if attached.arrival.kind is Kind.SEED:
            cluster = self._find("scheduler", attached.arrival)
        return self._schedulers.get(cluster.id, ()) if cluster is not None else ()

    def configured(self, cluster: Candidate | None) -> Configured:
        """What holds in a cluster."""
        return self._configurations.get(cluster.id if cluster is not None else 0, Configured())

    def _find(self, kind: str, arrival: Arrival) -> Candidate | None:
        return find_cluster(self._clusters.get(kind, []), arrival.place)

    def _read(
        self,
    ) -> tuple[dict[str, list[Candidate]], dict[int, Configured], dict[int, tuple[str, ...]]]:
        with self._database.reading() as session:
            found = {
                cluster_id: Configured(version, json.dumps(document).encode())
                for cluster_id, (version, document) in newest(session).items()
            }
            return candidates(session), found, scheduler_addresses(session)
