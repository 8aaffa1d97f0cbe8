"""Writes down what was changed by whom, in the transaction that changes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cafs.manager.tables import Account, Change
from cafs.manager.users.roles import Caller


def write_down(
    session: Session,
    caller: Caller,
    action: str,
    thing: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """One change. What ``before`` and ``after`` have in common is left out.

    Args:
        session: The one that changes it.
        caller: Who did it.
        action: ``user.create`` and the like.
        thing: What it was done to: kind, number, name.
        before: Its fields; None: it was not there.
        after: Its fields; None: it is gone. Never a secret.
    """
    if before is not None and after is not None:
        before, after = (
            {name: value for name, value in before.items() if after.get(name) != value},
            {name: value for name, value in after.items() if before.get(name) != value},
        )
    session.add(
        Change(
            at=datetime.now(UTC),
            who=caller.name,
            by=caller.by,
            address=caller.address[:64],
            action=action,
            thing=thing[:128],
            before=None if before is None else dict(before),
            after=None if after is None else dict(after),
        )
    )


def without_token(account: Account, by: str, address: str) -> Caller:
    """Somebody who changes his own account before he has a token."""
    return Caller(
        account_id=account.id,
        name=account.name,
        role=None,
        cluster_roles={},
        token_id=0,
        by=by,
        scopes=None,
        address=address,
    )


def list_changes(session: Session, before_id: int | None, limit: int) -> list[Change]:
    """The newest first, older than ``before_id``."""
    query = select(Change).order_by(Change.id.desc()).limit(limit)
    if before_id is not None:
        query = query.where(Change.id < before_id)
    return list(session.scalars(query))
