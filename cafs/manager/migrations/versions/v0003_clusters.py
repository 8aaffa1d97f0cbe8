"""Clusters, roles in them, and hosts.

Revision ID: 0003
"""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """See the module. A default cluster of each kind is there from the beginning."""
    cluster = op.create_table(
        "cluster",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("description", sa.String(1000), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("is_default", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("kind", "name", name="cluster_name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "cluster_default",
        "cluster",
        ["kind"],
        unique=True,
        sqlite_where=sa.text("is_default"),
        postgresql_where=sa.text("is_default"),
    )
    op.create_table(
        "cluster_role",
        sa.Column(
            "cluster_id", sa.Integer, sa.ForeignKey("cluster.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column(
            "account_id", sa.Integer, sa.ForeignKey("account.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("role", sa.String(16), nullable=False),
    )
    op.create_index("cluster_role_account", "cluster_role", ["account_id"])
    op.create_table(
        "host",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("hostname", sa.String(255), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("idc", sa.String(255), nullable=False),
        sa.Column("location", sa.String(255), nullable=False),
        sa.Column("cafs_version", sa.String(255), nullable=False),
        sa.Column("cluster_id", sa.Integer, sa.ForeignKey("cluster.id", ondelete="SET NULL"), index=True),
        sa.Column("replica_id", sa.String(32), index=True),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
    )
    nobody: dict[str, list[str]] = {"cidrs": [], "hostnames": [], "idcs": [], "locations": []}
    now = datetime.now(UTC)
    usual = {"name": "default", "description": "", "scopes": nobody, "is_default": True, "version": 1}
    op.bulk_insert(cluster, [{"kind": kind, "created_at": now, **usual} for kind in ("scheduler", "seed")])
