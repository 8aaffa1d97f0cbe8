"""Links with which people come in for the first time: a page with a form, and the same by REST.

The page needs no script and loads nothing. The link's secret is in the address, so it holds once, for a
day, and is sent on to nobody (no-referrer); requests are not logged.
"""

from __future__ import annotations

from html import escape
from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import Field, ValidationError
from starlette.responses import HTMLResponse

from cafs.errors import CafsError
from cafs.manager.http.models import Name, Password, Sent, Told, UserTold
from cafs.manager.http.parts import Here, Parts, client_address
from cafs.manager.http.problems import declared
from cafs.manager.http.routes_users import told
from cafs.manager.refusals import problem_of
from cafs.manager.tables import Account
from cafs.manager.users.accounts import get_account, look_at_link, use_link
from cafs.manager.users.audit import without_token, write_down
from cafs.manager.users.passwords import LEAST
from cafs.manager.users.tokens import end_sessions

routes = APIRouter(tags=["setup"])
page = APIRouter()
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>CAFS manager</title></head><body><main><h1>CAFS manager</h1>{content}</main></body></html>
"""
_FORM = """<p>{greeting}</p>
<form method="post" action="/setup"><input type="hidden" name="link" value="{link}">
{name}<p><label>Password, {least} characters or more<br>
<input type="password" name="password" minlength="{least}" autocomplete="new-password" required></label></p>
<p><button>Set up</button></p></form>"""
_NAME = """<p><label>Name: lower-case letters, digits, . _ @ -<br>
<input name="name" autocomplete="username" required></label></p>
"""


class SetUp(Sent):
    """What is chosen at a link."""

    link: Annotated[str, Field(max_length=128, json_schema_extra={"writeOnly": True})]
    name: Annotated[Name | None, Field(description="Of a new administrator.")] = None
    password: Password


class LinkSent(Sent):
    """A link that somebody was given."""

    link: Annotated[str, Field(max_length=128, json_schema_extra={"writeOnly": True})]


class LinkTold(Told):
    """Whom it is for."""

    name: str | None = Field(description="The account that gets a password; null: a new administrator.")


@routes.post("/setup/link", responses=declared(401, 422, 503))
def look(sent: LinkSent, parts: Here) -> LinkTold:
    """Whom a link is for, without using it."""
    with parts.database.reading() as session:
        found = look_at_link(session, sent.link)
        if found.account_id is None:
            return LinkTold(name=None)
        return LinkTold(name=get_account(session, found.account_id).name)


@routes.post("/setup", status_code=201, responses=declared(401, 409, 422, 429, 503))
def set_up(sent: SetUp, request: Request, parts: Here) -> UserTold:
    """Use a link: choose a password, and for a new administrator a name."""
    return told(_use(parts, sent, client_address(request)))


@page.get("/setup", include_in_schema=False)
def show_form(parts: Here, link: Annotated[str, Query(max_length=128)] = "") -> HTMLResponse:
    """The page at a link."""
    try:
        name, greeting = _NAME, "Choose name and password of an administrator."
        with parts.database.reading() as session:
            found = look_at_link(session, link)
            if found.account_id is not None:
                known = get_account(session, found.account_id).name
                name, greeting = "", f"Choose a password for {escape(known)}."
    except CafsError as e:
        return _refused(e)
    return _html(_FORM.format(greeting=greeting, link=escape(link), name=name, least=LEAST))


@page.post("/setup", include_in_schema=False)
async def take_form(parts: Here, request: Request) -> HTMLResponse:
    """What the form sends."""
    try:
        given = parse_qs((await request.body()).decode(errors="replace"), max_num_fields=8)
    except ValueError:
        return _html("<p>The form has no more than 8 fields.</p>", HTTPStatus.UNPROCESSABLE_ENTITY)
    fields = {name: values[0] for name, values in given.items()}
    try:
        sent = SetUp.model_validate(fields)
        account = await run_in_threadpool(_use, parts, sent, client_address(request))
    except ValidationError as e:
        wrong = "; ".join(f"{error['loc'][0]}: {error['msg']}" for error in e.errors())
        return _html(f"<p>{escape(wrong)}. Go back and try again.</p>", HTTPStatus.UNPROCESSABLE_ENTITY)
    except CafsError as e:
        return _refused(e)
    return _html(f"<p>{escape(account.name)} can sign in now.</p>")


def _use(parts: Parts, sent: SetUp, address: str) -> Account:
    with parts.database.reading() as session:
        look_at_link(session, sent.link)  # before a password is hashed for whoever has none
    made = parts.passwords.hash(sent.password)
    with parts.database.writing() as session:
        account = use_link(session, sent.link, sent.name, made)
        end_sessions(session, account.id)
        who = without_token(account, "link", address)
        write_down(
            session, who, "user.setup", f"user {account.id} {account.name}", after={"role": account.role}
        )
    return account


def _refused(error: CafsError) -> HTMLResponse:
    problem = problem_of(error)
    return _html(f"<p>{escape(problem.detail)}.</p>", problem.status)


def _html(content: str, status: HTTPStatus = HTTPStatus.OK) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(content=content), status.value)
