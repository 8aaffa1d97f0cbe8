"""Signing in by an OpenID provider: the way there, and the way back."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field

from cafs.errors import NotFoundError
from cafs.manager.http.models import Sent, Told
from cafs.manager.http.parts import Here, Parts, client_address
from cafs.manager.http.problems import declared
from cafs.manager.http.routes_sessions import SignedIn
from cafs.manager.oidc.client import ProviderClient
from cafs.manager.oidc.flow import MOST_BYTES, Flow, open_flow
from cafs.manager.oidc.provider import CALLBACK, identity_of
from cafs.manager.refusals import ThrottledError
from cafs.manager.users.federated import come_in, sealing_key
from cafs.manager.users.throttle import key_of_provider
from cafs.manager.users.tokens import begin_session

routes = APIRouter(prefix="/oidc", tags=["sessions"])
_CODE = 2048


class WayThere(Told):
    """Where to send a browser, and what to keep until it comes back to ``SITE/oidc/callback``."""

    address: str
    flow: str


class WayBack(Sent):
    """What the provider sent back, and what was kept."""

    flow: Annotated[str, Field(max_length=MOST_BYTES, json_schema_extra={"writeOnly": True})]
    state: Annotated[str, Field(max_length=256)]
    code: Annotated[str, Field(max_length=_CODE, json_schema_extra={"writeOnly": True})]


class Offered(Told):
    """How people may sign in."""

    offered: bool = Field(description="By an OpenID provider, too.")


@routes.get("", responses=declared())
def show(parts: Here) -> Offered:
    """Whether people may sign in by an OpenID provider here."""
    return Offered(offered=parts.provider is not None)


@routes.post("/flows", status_code=201, responses=declared(404, 429, 503))
def begin(request: Request, parts: Here) -> WayThere:
    """Begin to sign in at the provider."""
    return way_there(parts, client_address(request))


@routes.post("/sessions", status_code=201, responses=declared(401, 403, 404, 409, 422, 429, 503))
def finish(sent: WayBack, request: Request, parts: Here) -> SignedIn:
    """Come back from the provider: begins a session of twelve hours."""
    return way_back(parts, sent, client_address(request))


def way_there(parts: Parts, address: str) -> WayThere:
    """See ``begin``."""
    client = _client(parts)
    _attempt(parts, address)
    with parts.database.writing() as session:
        key = sealing_key(session)
    flow = Flow.begin()
    return WayThere(address=client.address(flow, parts.site + CALLBACK), flow=flow.sealed(key))


def way_back(parts: Parts, sent: WayBack, address: str) -> SignedIn:
    """See ``finish``."""
    client = _client(parts)
    with parts.database.writing() as session:
        key = sealing_key(session)
    flow = open_flow(sent.flow, sent.state, key)
    _attempt(parts, address)
    claims = client.claims(flow, sent.code, parts.site + CALLBACK)
    identity = identity_of(claims, client.provider)
    parts.throttle.was_right(key_of_provider(address))
    with parts.database.writing() as session:
        account = come_in(session, client.provider.issuer, identity, address)
        token, secret = begin_session(session, account)
    return SignedIn(token=secret, expires_at=token.expires_at)


def _client(parts: Parts) -> ProviderClient:
    if parts.provider is None:
        raise NotFoundError("nobody signs in by an OpenID provider here: manager_oidc_issuer is empty")
    return parts.provider


def _attempt(parts: Parts, address: str) -> None:
    """The provider is asked for whoever comes: not as often as they like."""
    if wait_s := parts.throttle.attempt(key_of_provider(address), time.monotonic()):
        raise ThrottledError("too many sign-ins were begun from there and not finished: wait", wait_s)
