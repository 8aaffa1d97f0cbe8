"""Accounts of people whom an OpenID provider vouches for."""

from __future__ import annotations

import hashlib

from cryptography.fernet import Fernet
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cafs.manager.oidc.provider import Identity
from cafs.manager.refusals import DeniedError, UnauthenticatedError
from cafs.manager.tables import Account, SealingKey
from cafs.manager.users.accounts import add_account, change_account, find_account
from cafs.manager.users.audit import without_token, write_down
from cafs.manager.users.roles import Role

_FLOWS = "oidc"


def subject_key(issuer: str, subject: str) -> str:
    """A subject is one person's at its issuer only (OpenID Connect Core, 5.7)."""
    return hashlib.sha256(f"{issuer}\0{subject}".encode()).hexdigest()


def come_in(session: Session, issuer: str, identity: Identity, address: str) -> Account:
    """The account of whoever it is, made or brought up to date where the provider's groups say so.

    Raises:
        DeniedError: there is none for them, or the name is that of an account with a password.
        UnauthenticatedError: it is disabled.
        StateError: the last administrator would lose the role.
    """
    key = subject_key(issuer, identity.subject)
    account = session.scalar(select(Account).where(Account.oidc_subject == key).with_for_update())
    if account is None:
        account = _first_time(session, key, identity, address)
    if account.disabled:
        raise UnauthenticatedError("this account is disabled")
    if identity.role is not None and account.role != identity.role:
        before = {"role": account.role}
        change_account(session, account, {"role": identity.role.value})
        _write_down(session, account, "user.change", address, before=before)
    return account


def _first_time(session: Session, key: str, identity: Identity, address: str) -> Account:
    account = find_account(session, identity.name, to_change=True)  # of two at once one is the first
    if account is None:
        if identity.role is None:
            raise DeniedError(f"there is no account {identity.name!r} here: an administrator makes them")
        account = add_account(session, identity.name, identity.role.value, oidc=True)
        account.oidc_subject = key
        _write_down(session, account, "user.create", address)
    elif not account.oidc or account.oidc_subject is not None:
        # Whoever may choose his name at the provider must not get somebody's account.
        raise DeniedError(f"the account {identity.name!r} is somebody else's, or comes in by password")
    else:
        account.oidc_subject = key
        account.version += 1
        _write_down(session, account, "user.bind", address)
    return account


def _write_down(
    session: Session, account: Account, action: str, address: str, before: dict[str, str | None] | None = None
) -> None:
    who = without_token(account, "oidc", address)
    after = {"role": Role(account.role).value if account.role else None}
    write_down(session, who, action, f"user {account.id} {account.name}", before=before, after=after)


def sealing_key(session: Session) -> bytes:
    """Of sign-ins under way; made when it is first needed."""
    kept = session.get(SealingKey, _FLOWS)
    if kept is None:
        kept = SealingKey(name=_FLOWS, value=Fernet.generate_key().decode())
        try:
            with session.begin_nested():
                session.add(kept)
        except IntegrityError:  # another replica was first
            kept = session.get_one(SealingKey, _FLOWS)
    return kept.value.encode()
