"""Configurations of clusters, each version of each, and which one a host runs.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """See the module."""
    op.create_table(
        "configuration",
        sa.Column("cluster_id", sa.Integer, sa.ForeignKey("cluster.id", ondelete="CASCADE"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("document", sa.JSON, nullable=False),
        sa.Column("note", sa.String(1000), nullable=False),
        sa.Column("who", sa.String(64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("restored", sa.Integer),
        sa.PrimaryKeyConstraint("cluster_id", "version"),
    )
    op.add_column("cluster", sa.Column("configuration", sa.Integer, nullable=False, server_default="0"))
    op.add_column("host", sa.Column("running", sa.Integer))
    op.add_column("host", sa.Column("refused", sa.String(1000), nullable=False, server_default=""))
