"""Hosts written straight into a manager's database, as if they had come."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from cafs.manager.clusters.hosts import write_arrivals


def host_row(number: int, **changes: Any) -> dict[str, Any]:
    """One of the scheduler cluster's peers, at ``10.0.x.y``."""
    now = datetime.now(UTC)
    row = {
        "id": f"{number:032x}",
        "kind": "peer",
        "hostname": f"host-{number}",
        "address": f"10.0.{number >> 8}.{number & 255}:7000",
        "idc": "",
        "location": "",
        "cafs_version": "test",
        "cluster_id": 1,
        "replica_id": None,
        "active": True,
        "since": now,
        "first_seen_at": now,
        "running": 0,
        "refused": "",
    }
    return {**row, **changes}


def write_hosts(database: URL, rows: Iterable[dict[str, Any]]) -> None:
    """Have them there."""
    engine = create_engine(database)
    try:
        with Session(engine) as session, session.begin():
            write_arrivals(session, rows)
    finally:
        engine.dispose()
