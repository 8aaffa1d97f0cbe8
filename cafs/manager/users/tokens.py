"""Sessions and personal access tokens: made, found, ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from cafs.errors import NotFoundError, StateError
from cafs.manager.refusals import UnauthenticatedError
from cafs.manager.tables import Account, ClusterRole, Token
from cafs.manager.users.roles import Caller, Role
from cafs.manager.users.secret import PERSONAL, SESSION, hash_secret, make_secret

SESSION_LASTS = timedelta(hours=12)
MOST_DAYS = 366
_MOST_TOKENS, _MOST_SESSIONS = 100, 50


def begin_session(session: Session, account: Account) -> tuple[Token, str]:
    """Signed in; the second is the secret. What has expired is swept out on the occasion."""
    now = datetime.now(UTC)
    session.execute(delete(Token).where(Token.expires_at < now))
    mine = select(Token.id).where(Token.account_id == account.id, Token.name.is_(None))
    kept = mine.order_by(Token.id.desc()).limit(_MOST_SESSIONS - 1)
    session.execute(delete(Token).where(Token.id.in_(mine), Token.id.not_in(kept.scalar_subquery())))
    return _add(session, account.id, SESSION, now + SESSION_LASTS)


def make_token(
    session: Session, account_id: int, name: str, scopes: list[str], days: int
) -> tuple[Token, str]:
    """A personal access token; the second is the secret.

    Raises:
        StateError: the account has too many.
    """
    mine = select(func.count()).where(Token.account_id == account_id, Token.name.is_not(None))
    if (session.scalar(mine) or 0) >= _MOST_TOKENS:
        raise StateError(f"an account has {_MOST_TOKENS} tokens at most: delete some")
    expires = datetime.now(UTC) + timedelta(days=days)
    return _add(session, account_id, PERSONAL, expires, name=name, scopes=sorted(set(scopes)))


def _add(
    session: Session,
    account_id: int,
    kind: str,
    expires_at: datetime,
    *,
    name: str | None = None,
    scopes: list[str] | None = None,
) -> tuple[Token, str]:
    secret = make_secret(kind)
    token = Token(
        account_id=account_id,
        secret_hash=hash_secret(secret),
        name=name,
        scopes=scopes,
        created_at=datetime.now(UTC),
        expires_at=expires_at,
    )
    session.add(token)
    session.flush()
    return token, secret


def list_tokens(session: Session, account_id: int) -> list[Token]:
    """Personal ones, the newest first."""
    query = select(Token).where(Token.account_id == account_id, Token.name.is_not(None))
    return list(session.scalars(query.order_by(Token.id.desc())))


def delete_token(session: Session, account_id: int, token_id: int) -> Token:
    """Revoke a personal access token.

    Raises:
        NotFoundError: the account has no such one.
    """
    token = session.get(Token, token_id)
    if token is None or token.account_id != account_id or token.name is None:
        raise NotFoundError("there is no such token")
    session.delete(token)
    return token


def end_sessions(session: Session, account_id: int, *, but: int = 0) -> None:
    """Sign an account out everywhere, except in one session."""
    session.execute(
        delete(Token).where(Token.account_id == account_id, Token.name.is_(None), Token.id != but)
    )


def find_caller(session: Session, secret: str, address: str) -> Caller:
    """Whose secret it is.

    Raises:
        UnauthenticatedError: nobody's, or not any more. Which of these is not told.
    """
    query = select(Token, Account).join(Account, Token.account_id == Account.id)
    found = session.execute(query.where(Token.secret_hash == hash_secret(secret))).first()
    if found is None or found.Token.expires_at <= datetime.now(UTC) or found.Account.disabled:
        raise UnauthenticatedError("the token is none of ours, or holds no more")
    token, account = found.Token, found.Account
    roles = session.scalars(select(ClusterRole).where(ClusterRole.account_id == account.id))
    return Caller(
        account_id=account.id,
        name=account.name,
        role=Role(account.role) if account.role is not None else None,
        cluster_roles={held.cluster_id: Role(held.role) for held in roles},
        token_id=token.id,
        by="session" if token.name is None else f"token {token.name}",
        scopes=None if token.scopes is None else frozenset(token.scopes),
        address=address,
    )
