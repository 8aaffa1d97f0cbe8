"""Statistics at falling resolution, and what was counted of each host last.

Revision ID: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_AMOUNTS = (
    "origin_bytes", "seed_bytes", "peer_bytes", "local_bytes", "upload_bytes", "forwarded_bytes",
    "downloads_succeeded", "downloads_failed", "pieces_succeeded", "pieces_failed", "pieces_wrong",
    "chunks_brought", "chunks_not_brought", "first_bytes", "first_byte_ms", "first_byte_up_to_10",
    "first_byte_up_to_30", "first_byte_up_to_100", "first_byte_up_to_300", "first_byte_up_to_1000",
    "first_byte_up_to_3000", "first_byte_up_to_10000", "requests", "requests_failed", "registrations",
    "decisions",
)  # fmt: skip
_LEVELS = ("store_bytes", "store_quota_bytes", "task_bytes", "task_quota_bytes", "tasks")


def upgrade() -> None:
    """See the module."""
    op.create_table(
        "statistic",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("resolution_s", sa.Integer, primary_key=True),
        sa.Column("at", sa.BigInteger, primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        sa.Column("cluster_id", sa.Integer, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _AMOUNTS),
        *(sa.Column(name, sa.BigInteger) for name in _LEVELS),
        sqlite_with_rowid=False,
    )
    op.create_index("statistic_subject", "statistic", ["subject", "at"])
    op.create_table(
        "reporter",
        sa.Column("host_id", sa.String(32), primary_key=True),
        sa.Column("life", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False, index=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _LEVELS),
    )
