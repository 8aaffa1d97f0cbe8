"""Starts of images, and the profiles that are learned of them.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """See the module."""
    op.create_table(
        "learned_profile",
        sa.Column("image", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(512), nullable=False),
        sa.Column("starts", sa.Integer, nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("frame_bytes", sa.BigInteger, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.Column("etag", sa.LargeBinary, nullable=False),
        sa.Column("learned_at", sa.DateTime(timezone=True), nullable=False, index=True),
    )
    op.create_table(
        "start",
        sa.Column(
            "image", sa.String(64), sa.ForeignKey("learned_profile.image", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("host_id", sa.String(32), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("frame_bytes", sa.BigInteger, nullable=False),
        sa.Column("document", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("image", "host_id"),
    )
