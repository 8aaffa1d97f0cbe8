"""Accounts that come in by an OpenID provider, and the key that seals a sign-in on its way there and back.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """See the module."""
    op.add_column("account", sa.Column("oidc", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("account", sa.Column("oidc_subject", sa.String(64)))
    op.create_index("account_oidc_subject", "account", ["oidc_subject"], unique=True)
    op.create_table(
        "sealing_key",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
    )
