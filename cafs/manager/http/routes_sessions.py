"""Signing in and out, and what one may do with one's own account."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from cafs.manager.http.caller import needs
from cafs.manager.http.models import Id, Label, Password, Sent, TokenTold, Told
from cafs.manager.http.parts import Here, client_address
from cafs.manager.http.problems import declared
from cafs.manager.refusals import ThrottledError, UnauthenticatedError
from cafs.manager.tables import Token
from cafs.manager.users.accounts import find_account, get_account
from cafs.manager.users.audit import write_down
from cafs.manager.users.passwords import MOST
from cafs.manager.users.roles import Caller, Role, Scope
from cafs.manager.users.throttle import Key, keys_of
from cafs.manager.users.tokens import (
    MOST_DAYS,
    begin_session,
    delete_token,
    end_sessions,
    list_tokens,
    make_token,
)

log = logging.getLogger(__name__)

routes = APIRouter(tags=["sessions"])
Anybody = Annotated[Caller, needs(None, None)]
"""Signed in, as whoever."""


class SignIn(Sent):
    """Name and password."""

    name: Annotated[str, Field(max_length=64)]
    password: Annotated[str, Field(max_length=MOST, json_schema_extra={"writeOnly": True})]


class SignedIn(Told):
    """The token is told this once."""

    token: str
    expires_at: datetime


class Me(Told):
    """Who asks, and what they may do."""

    id: int
    name: str
    role: Role | None = Field(description="Everywhere.")
    clusters: dict[int, Role] = Field(description="In single clusters, by number.")
    scopes: list[Scope] | None = Field(description="What the token is good for; null: a session, for all.")


class NewPassword(Sent):
    """One's own."""

    current: Annotated[str, Field(max_length=MOST, json_schema_extra={"writeOnly": True})]
    new: Password


class NewToken(Sent):
    """A personal access token that is to be made."""

    name: Label
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    days: Annotated[int, Field(ge=1, le=MOST_DAYS, strict=True, description="How long it holds.")]


class MadeToken(TokenTold):
    """The token is told this once."""

    token: str


@routes.post("/sessions", status_code=201, responses=declared(401, 422, 429, 503))
def sign_in(sent: SignIn, request: Request, parts: Here) -> SignedIn:
    """Begin a session of twelve hours. Wrong guesses are slowed down (429)."""
    address = client_address(request)
    keys = _guess(parts, sent.name, address)
    with parts.database.reading() as session:
        account = find_account(session, sent.name)
    right = parts.passwords.is_right(account.password_hash if account else None, sent.password)
    if account is None or not right or account.disabled:
        log.info("somebody at %s could not sign in", address)
        raise UnauthenticatedError("no such name and password")
    parts.throttle.was_right(keys)
    with parts.database.writing() as session:
        # Checking takes a while: whoever was disabled, or given another password, meanwhile stays out.
        now = find_account(session, sent.name, to_change=True)
        if now is None or now.disabled or now.password_hash != account.password_hash:
            raise UnauthenticatedError("no such name and password")
        token, secret = begin_session(session, now)
    return SignedIn(token=secret, expires_at=token.expires_at)


def _guess(parts: Here, name: str, address: str) -> tuple[Key, ...]:
    keys = keys_of(name, address)
    if wait_s := parts.throttle.attempt(keys, time.monotonic()):
        raise ThrottledError("too many wrong guesses: wait", wait_s)
    return keys


@routes.delete("/sessions/current", status_code=204, responses=declared(401, 403, 503))
def sign_out(caller: Anybody, parts: Here) -> None:
    """End this session."""
    with parts.database.writing() as session:
        token = session.get(Token, caller.token_id)
        if token is not None:
            session.delete(token)


@routes.get("/me", responses=declared(401, 503))
def show_me(caller: Annotated[Caller, needs(None, None, any_token=True)], parts: Here) -> Me:
    """Who asks, and what they may do."""
    scopes = None if caller.scopes is None else [Scope(scope) for scope in sorted(caller.scopes)]
    held = dict(caller.cluster_roles)
    return Me(id=caller.account_id, name=caller.name, role=caller.role, clusters=held, scopes=scopes)


@routes.put("/me/password", status_code=204, responses=declared(401, 403, 422, 429, 503))
def change_password(sent: NewPassword, caller: Anybody, parts: Here) -> None:
    """Set another password; all other sessions end."""
    keys = _guess(parts, caller.name, caller.address)
    with parts.database.reading() as session:
        kept = get_account(session, caller.account_id).password_hash
    if not parts.passwords.is_right(kept, sent.current):
        raise UnauthenticatedError("the current password is another one")
    parts.throttle.was_right(keys)
    made = parts.passwords.hash(sent.new)
    with parts.database.writing() as session:
        account = get_account(session, caller.account_id, to_change=True)
        account.password_hash = made
        account.version += 1
        end_sessions(session, account.id, but=caller.token_id)
        write_down(session, caller, "user.password", f"user {account.id} {account.name}")


@routes.get("/me/tokens", responses=declared(401, 403, 503))
def list_my_tokens(caller: Anybody, parts: Here) -> list[TokenTold]:
    """One's own personal access tokens."""
    with parts.database.reading() as session:
        return [TokenTold.model_validate(token) for token in list_tokens(session, caller.account_id)]


@routes.post("/me/tokens", status_code=201, responses=declared(401, 403, 409, 422, 503))
def make_my_token(sent: NewToken, caller: Anybody, parts: Here) -> MadeToken:
    """Make a personal access token: it may do what its scopes say, as far as one may oneself."""
    with parts.database.writing() as session:
        scopes = [scope.value for scope in sent.scopes]
        token, secret = make_token(session, caller.account_id, sent.name, scopes, sent.days)
        told = TokenTold.model_validate(token)
        after = {"scopes": told.scopes, "expires_at": told.expires_at.isoformat()}
        write_down(session, caller, "token.create", f"token {token.id} {token.name}", after=after)
    return MadeToken(**told.model_dump(), token=secret)


@routes.delete("/me/tokens/{token_id}", status_code=204, responses=declared(401, 403, 404, 422, 503))
def delete_my_token(token_id: Id, caller: Anybody, parts: Here) -> None:
    """Revoke one of one's own tokens; it holds no more from now on."""
    with parts.database.writing() as session:
        token = delete_token(session, caller.account_id, token_id)
        write_down(session, caller, "token.delete", f"token {token.id} {token.name}", before={})
