"""What images share with each other: layers and chunks of learned profiles, where they can be compared.

Revision ID: 0009
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_PREFIX_BYTES = 8


def upgrade() -> None:
    """See the module."""
    layers = op.create_table(
        "learned_layer",
        _image(),
        sa.Column("diff_id", sa.String(136), primary_key=True, index=True),
        sa.Column("chunks", sa.Integer, nullable=False),
    )
    digests = op.create_table(
        "learned_digests",
        _image(),
        sa.Column("digests", sa.LargeBinary, nullable=False),
    )
    connection = op.get_bind()
    profile = sa.table(
        "learned_profile", sa.column("image", sa.String), sa.column("document", sa.LargeBinary)
    )
    for name in connection.scalars(sa.select(profile.c.image)).all():
        document = connection.scalars(sa.select(profile.c.document).where(profile.c.image == name)).one()
        counts, packed = _read(json.loads(document))
        op.bulk_insert(
            layers, [{"image": name, "diff_id": layer, "chunks": n} for layer, n in counts.items()]
        )
        op.bulk_insert(digests, [{"image": name, "digests": packed}])


def _image() -> sa.Column[str]:
    profile = sa.ForeignKey("learned_profile.image", ondelete="CASCADE")
    return sa.Column("image", sa.String(64), profile, primary_key=True)


def _read(document: dict[str, Any]) -> tuple[dict[str, int], bytes]:
    counts = dict.fromkeys(document["layers"], 0)
    prefixes: set[bytes] = set()
    for run in document["runs"]:
        chunks = bytes.fromhex(run["chunks"])
        counts[document["layers"][run["layer"]]] += len(chunks) // _PREFIX_BYTES
        prefixes.update(chunks[at : at + _PREFIX_BYTES] for at in range(0, len(chunks), _PREFIX_BYTES))
    return counts, b"".join(sorted(prefixes))
