"""Accounts: made, changed, removed. There is always somebody who may do so."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cafs.errors import ExistsError, NotFoundError, StateError
from cafs.manager.refusals import UnauthenticatedError
from cafs.manager.tables import Account, ClusterRole, Counter, Invitation
from cafs.manager.users.roles import Role
from cafs.manager.users.secret import LINK, hash_secret, make_secret

LINK_LASTS = timedelta(hours=24)


def list_accounts(session: Session, after: int, limit: int) -> list[Account]:
    """In the order of their numbers."""
    return list(session.scalars(select(Account).where(Account.id > after).order_by(Account.id).limit(limit)))


def get_account(session: Session, account_id: int, *, to_change: bool = False) -> Account:
    """One of them.

    Raises:
        NotFoundError: there is none of that number.
    """
    account = session.get(Account, account_id, with_for_update=to_change)
    if account is None:
        raise NotFoundError(f"there is no user {account_id}")
    return account


def find_account(session: Session, name: str, *, to_change: bool = False) -> Account | None:
    """By name, which may be anything."""
    if not name.isprintable():
        return None  # PostgreSQL would not even be asked for some of them
    query = select(Account).where(Account.name == name)
    return session.scalar(query.with_for_update() if to_change else query)


def add_account(
    session: Session, name: str, role: str | None, password_hash: str | None = None, *, oidc: bool = False
) -> Account:
    """A new one.

    Raises:
        ExistsError: the name is taken.
    """
    account = Account(
        name=name,
        role=role,
        password_hash=password_hash,
        disabled=False,
        oidc=oidc,
        version=1,
        created_at=datetime.now(UTC),
    )
    session.add(account)
    try:
        session.flush()
    except IntegrityError:
        raise ExistsError(f"there is a user {name!r} already") from None
    return account


def change_account(session: Session, account: Account, changes: Mapping[str, Any]) -> None:
    """Set fields.

    Raises:
        StateError: nobody would be left who may change accounts.
    """
    for name, value in changes.items():
        setattr(account, name, value)
    account.version += 1
    _keep_an_admin(session)


def roles_of(session: Session, account: Account) -> dict[str, str]:
    """Those in single clusters, by the cluster's number."""
    found = session.scalars(select(ClusterRole).where(ClusterRole.account_id == account.id))
    return {str(held.cluster_id): held.role for held in found}


def remove_account(session: Session, account: Account) -> None:
    """With its tokens and its roles in clusters.

    Raises:
        StateError: as ``change_account``.
    """
    session.delete(account)
    _keep_an_admin(session)


def _keep_an_admin(session: Session) -> None:
    """Two who take the role from each other at once would leave none: so one waits for the other here."""
    _hold(session)
    session.flush()
    able = select(Account.id).where(
        Account.role == Role.ADMIN, ~Account.disabled, Account.password_hash.is_not(None)
    )
    if session.scalars(able.limit(1)).first() is None:
        raise StateError("the last administrator who can sign in stays one")


def _hold(session: Session) -> None:
    """One transaction at a time from here on."""
    session.execute(select(Counter).where(Counter.name == "accounts").with_for_update())


def add_link(session: Session, account_id: int | None) -> str:
    """The secret of a link by which a password is set, once; None: of a new administrator.

    An account has one at a time.
    """
    now = datetime.now(UTC)
    session.execute(delete(Invitation).where(Invitation.expires_at < now))
    if account_id is not None:
        session.execute(delete(Invitation).where(Invitation.account_id == account_id))
    secret = make_secret(LINK)
    session.add(
        Invitation(account_id=account_id, secret_hash=hash_secret(secret), expires_at=now + LINK_LASTS)
    )
    return secret


def look_at_link(session: Session, secret: str, *, to_use: bool = False) -> Invitation:
    """What it is good for.

    Raises:
        UnauthenticatedError: for nothing, or no more.
    """
    if to_use:
        _hold(session)
    link = session.scalar(select(Invitation).where(Invitation.secret_hash == hash_secret(secret)))
    if link is None or link.expires_at <= datetime.now(UTC):
        raise UnauthenticatedError("the link is none of ours, or was used, or is too old")
    return link


def use_link(session: Session, secret: str, name: str | None, password_hash: str) -> Account:
    """Set a password; or make an administrator, after which no other such link holds.

    Raises:
        UnauthenticatedError: as ``look_at_link``.
        StateError: a name is missing, or is not the account's.
        ExistsError: the name is taken.
    """
    link = look_at_link(session, secret, to_use=True)
    if link.account_id is None:
        if name is None:
            raise StateError("choose a name for the new administrator")
        session.execute(delete(Invitation).where(Invitation.account_id.is_(None)))
        return add_account(session, name, Role.ADMIN, password_hash)
    account = get_account(session, link.account_id, to_change=True)
    if name is not None and name != account.name:
        raise StateError("the link is for somebody else")
    session.delete(link)
    account.password_hash = password_hash
    account.version += 1
    return account


def is_new(session: Session) -> bool:
    """Nobody can sign in yet."""
    able = select(Account.id).where(Account.password_hash.is_not(None)).limit(1)
    return session.scalars(able).first() is None
