"""Configurations of clusters in the database: versions are added, and none is ever changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cafs.core.live.document import parse_document
from cafs.errors import NotFoundError
from cafs.manager.clusters.catalogue import note_change
from cafs.manager.tables import Cluster, Configuration


def get_version(session: Session, cluster: Cluster, version: int) -> Configuration:
    """One of a cluster's; 0 is the one that says nothing.

    Raises:
        NotFoundError: there is no such version.
    """
    if version == 0:
        return Configuration(
            cluster_id=cluster.id,
            version=0,
            document={},
            note="",
            who="",
            at=cluster.created_at,
            restored=None,
        )
    found = session.get(Configuration, (cluster.id, version))
    if found is None:
        raise NotFoundError(f"cluster {cluster.id} has no configuration {version}")
    return found


def list_versions(session: Session, cluster_id: int, before: int | None, limit: int) -> list[Configuration]:
    """The newest first, older than ``before``."""
    query = select(Configuration).where(Configuration.cluster_id == cluster_id)
    if before is not None:
        query = query.where(Configuration.version < before)
    return list(session.scalars(query.order_by(Configuration.version.desc()).limit(limit)))


def add_version(
    session: Session,
    cluster: Cluster,
    document: dict[str, Any],
    *,
    who: str,
    note: str,
    restored: int | None = None,
) -> Configuration:
    """The one that holds from now on. The cluster was read to be changed.

    Raises:
        InvalidDocumentError: the document cannot be.
    """
    parse_document(document, cluster.kind)
    made = Configuration(
        cluster_id=cluster.id,
        version=cluster.configuration + 1,
        document=document,
        note=note,
        who=who,
        at=datetime.now(UTC),
        restored=restored,
    )
    session.add(made)
    cluster.configuration = made.version
    session.flush()
    note_change(session)
    return made


def newest(session: Session) -> dict[int, tuple[int, dict[str, Any]]]:
    """Of each cluster: version and document; those without one are left out."""
    query = select(Configuration).join(
        Cluster,
        (Cluster.id == Configuration.cluster_id) & (Cluster.configuration == Configuration.version),
    )
    return {found.cluster_id: (found.version, found.document) for found in session.scalars(query)}
