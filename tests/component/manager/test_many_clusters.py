"""How many clusters there can be: all of them are compared with each host, and are in one listing."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cafs.errors import StateError
from cafs.manager.clusters.catalogue import MOST_CLUSTERS, add_cluster, list_clusters, remove_cluster
from cafs.manager.database import Database, parse_database
from cafs.manager.migrate import upgrade
from cafs.manager.tables import Cluster

FIELDS = {"is_default": False, "scopes": {"cidrs": [], "hostnames": [], "idcs": [], "locations": []}}


def test_there_is_room_for_so_many(tmp_path: Path) -> None:
    with Database(parse_database("", tmp_path / "manager.db")) as database:
        upgrade(database)
        with database.writing() as session:
            there = len(list_clusters(session))
            now = datetime.now(UTC)
            session.add_all(
                Cluster(kind="seed", name=f"c{number}", version=1, configuration=0, created_at=now, **FIELDS)
                for number in range(MOST_CLUSTERS - there - 1)
            )
            session.flush()
            last = add_cluster(session, "scheduler", "last", FIELDS)
            with pytest.raises(StateError, match="remove some"):
                add_cluster(session, "scheduler", "one more", FIELDS)
            remove_cluster(session, last)
            add_cluster(session, "scheduler", "one more", FIELDS)
            assert len(list_clusters(session)) == MOST_CLUSTERS
