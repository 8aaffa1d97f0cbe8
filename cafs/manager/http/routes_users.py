"""Accounts, for administrators."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import Field, StrictBool

from cafs.errors import StateError
from cafs.manager.http.caller import needs
from cafs.manager.http.conditional import IfMatch, check_match, etag_of
from cafs.manager.http.models import (
    After,
    Id,
    Limit,
    Name,
    Page,
    Sent,
    TokenTold,
    Told,
    UserTold,
)
from cafs.manager.http.parts import Here, link_to
from cafs.manager.http.problems import declared
from cafs.manager.tables import Account
from cafs.manager.users.accounts import (
    add_account,
    add_link,
    change_account,
    get_account,
    list_accounts,
    remove_account,
    roles_of,
)
from cafs.manager.users.audit import write_down
from cafs.manager.users.roles import Caller, Role, Scope
from cafs.manager.users.tokens import delete_token, end_sessions, list_tokens

routes = APIRouter(prefix="/users", tags=["users"])
Reader = Annotated[Caller, needs(Role.ADMIN, Scope.USERS_READ)]
Writer = Annotated[Caller, needs(Role.ADMIN, Scope.USERS_WRITE)]


class NewUser(Sent):
    """An account that is to be made."""

    name: Name
    role: Annotated[Role | None, Field(description="Everywhere; null: none.")] = None
    oidc: Annotated[StrictBool, Field(description="Comes in by the OpenID provider, by this name.")] = False


class UserChanges(Sent):
    """What is left out stays."""

    role: Annotated[Role | None, Field(description="Everywhere; null: none.")] = None
    disabled: Annotated[StrictBool, Field(description="May not come in; its tokens hold no more.")] = False


class Link(Told):
    """An address, told this once, at which somebody chooses a password within a day."""

    link: str


class InvitedUser(UserTold):
    """A new account, and the link for whoever it is for."""

    link: str | None = Field(description="Told this once; null: comes in by the OpenID provider.")


def told(account: Account) -> UserTold:
    """As others may see it."""
    return UserTold(
        id=account.id,
        name=account.name,
        role=Role(account.role) if account.role is not None else None,
        disabled=account.disabled,
        can_sign_in=(account.password_hash is not None or account.oidc) and not account.disabled,
        oidc=account.oidc,
        created_at=account.created_at,
    )


def fields(account: Account) -> dict[str, Any]:
    """What may be changed of it."""
    return {"role": account.role, "disabled": account.disabled}


def _named(account: Account) -> str:
    return f"user {account.id} {account.name}"


@routes.get("", responses=declared(401, 403, 422, 503))
def list_users(_caller: Reader, parts: Here, after: After = 0, limit: Limit = 100) -> Page[UserTold]:
    """All accounts, in the order of their numbers."""
    with parts.database.reading() as session:
        found = list_accounts(session, after, limit + 1)
    items = [told(account) for account in found[:limit]]
    return Page(items=items, next=items[-1].id if len(found) > limit else None)


@routes.post("", status_code=201, responses=declared(401, 403, 409, 422, 503))
def create_user(sent: NewUser, caller: Writer, parts: Here, response: Response) -> InvitedUser:
    """Make an account. Whoever it is for chooses a password at the link, within a day."""
    with parts.database.writing() as session:
        account = add_account(session, sent.name, sent.role, oidc=sent.oidc)
        link = None if sent.oidc else link_to(parts.site, add_link(session, account.id))
        write_down(session, caller, "user.create", _named(account), after=fields(account))
    response.headers["ETag"] = etag_of(account.version)
    return InvitedUser(**told(account).model_dump(), link=link)


@routes.get("/{user_id}", responses=declared(401, 403, 404, 422, 503))
def show_user(user_id: Id, _caller: Reader, parts: Here, response: Response) -> UserTold:
    """One account."""
    with parts.database.reading() as session:
        account = get_account(session, user_id)
    response.headers["ETag"] = etag_of(account.version)
    return told(account)


@routes.patch("/{user_id}", responses=declared(401, 403, 404, 409, 422, 428, 503))
def change_user(  # noqa: PLR0917 - FastAPI calls it, by keyword
    user_id: Id,
    sent: UserChanges,
    caller: Writer,
    parts: Here,
    response: Response,
    if_match: IfMatch = None,
) -> UserTold:
    """Change an account; what is left out stays. A disabled one is signed out everywhere."""
    changes = sent.model_dump(exclude_unset=True, mode="json")
    with parts.database.writing() as session:
        account = get_account(session, user_id, to_change=True)
        before = fields(account)
        check_match(if_match, account.version, before, changes)
        change_account(session, account, changes)
        if account.disabled:
            end_sessions(session, account.id)
        write_down(session, caller, "user.change", _named(account), before=before, after=fields(account))
    response.headers["ETag"] = etag_of(account.version)
    return told(account)


@routes.delete("/{user_id}", status_code=204, responses=declared(401, 403, 404, 409, 422, 428, 503))
def delete_user(user_id: Id, caller: Writer, parts: Here, if_match: IfMatch = None) -> None:
    """Remove an account with its tokens. What it changed stays in the audit."""
    with parts.database.writing() as session:
        account = get_account(session, user_id, to_change=True)
        check_match(if_match, account.version, fields(account), {})
        before = fields(account) | {"clusters": roles_of(session, account)}
        remove_account(session, account)
        write_down(session, caller, "user.delete", _named(account), before=before)


@routes.post("/{user_id}/link", status_code=201, responses=declared(401, 403, 404, 409, 422, 503))
def link_user(user_id: Id, caller: Writer, parts: Here) -> Link:
    """Make a link at which whoever forgot a password chooses another one. Earlier links hold no more."""
    with parts.database.writing() as session:
        account = get_account(session, user_id, to_change=True)
        if account.oidc:
            raise StateError(f"{account.name} comes in by the OpenID provider, and has no password here")
        link = link_to(parts.site, add_link(session, account.id))
        write_down(session, caller, "user.link", _named(account))
    return Link(link=link)


@routes.get("/{user_id}/tokens", responses=declared(401, 403, 404, 422, 503))
def list_tokens_of(user_id: Id, _caller: Reader, parts: Here) -> list[TokenTold]:
    """An account's personal access tokens."""
    with parts.database.reading() as session:
        get_account(session, user_id)
        return [TokenTold.model_validate(token) for token in list_tokens(session, user_id)]


@routes.delete("/{user_id}/tokens/{token_id}", status_code=204, responses=declared(401, 403, 404, 422, 503))
def delete_token_of(user_id: Id, token_id: Id, caller: Writer, parts: Here) -> None:
    """Revoke somebody's token."""
    with parts.database.writing() as session:
        token = delete_token(session, user_id, token_id)
        write_down(session, caller, "token.delete", f"token {token.id} {token.name}", before={})
