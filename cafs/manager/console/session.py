"""Signing in and out: plain forms, answered with a cookie and sent on.

The cookie holds the token of a session of REST's, which the database knows as a hash: scripts cannot read
it, and browsers send it with what our own pages ask for only.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from cafs.manager.console.rest import RefusedError, Rest
from cafs.manager.http.parts import client_address
from cafs.manager.http.paths import CONSOLE
from cafs.manager.oidc.provider import CALLBACK

SIGN_IN, SET_UP = f"{CONSOLE}/sign-in", f"{CONSOLE}/setup"
DO_SIGN_IN, DO_SIGN_OUT, DO_SET_UP, DO_OPENID = (
    f"{CONSOLE}/do/{what}" for what in ("sign-in", "sign-out", "set-up", "openid")
)
_FLOW, _FLOW_S = "cafs-flow", 600
# The cookie is for our own pages' requests only, and this answer was asked for from the provider's page: what
# follows must be asked for from ours.
_ON = f"""<!doctype html><html lang="en"><title>CAFS</title>
<meta http-equiv="refresh" content="0;url={CONSOLE}/"><a href="{CONSOLE}/">Go on</a></html>
"""
_OURS = re.compile(rf"{CONSOLE}/[A-Za-z0-9/?=&._~%-]*")
_LASTS_S = 12 * 3600
_UNAUTHORIZED, _FORBIDDEN, _TAKEN, _THROTTLED = 401, 403, 409, 429


def cookie_name(request: Request) -> str:
    """``__Host-``: browsers then take it from us alone, and over TLS alone."""
    return "__Host-cafs" if request.app.state.secure else "cafs"


def rest_of(request: Request) -> Rest:
    """REST, asked as whoever sent this."""
    token = request.cookies.get(cookie_name(request), "")
    return Rest(request.app.state.rest, token, client_address(request))


def to_sign_in(said: str = "", where: str = "", **more: Any) -> str:
    """The address of the page, which says so, and goes on to ``where``."""
    query = {"said": said, "next": where if _OURS.fullmatch(where) else "", **more}
    told = urlencode({name: value for name, value in query.items() if value})
    return f"{SIGN_IN}?{told}" if told else SIGN_IN


def add_routes(shell: FastAPI) -> None:
    """What the forms are sent to."""
    shell.add_api_route(DO_SIGN_IN, _sign_in, methods=["POST"])
    shell.add_api_route(DO_SIGN_OUT, _sign_out, methods=["POST"])
    shell.add_api_route(DO_SET_UP, _set_up, methods=["POST"])
    shell.add_api_route(DO_OPENID, _to_provider, methods=["GET"])
    shell.add_api_route(CALLBACK, _from_provider, methods=["GET"])


async def _sign_in(request: Request) -> Response:
    sent = await _fields(request)
    where = sent.get("next", "")
    try:
        return await _begin(request, sent.get("name", ""), sent.get("password", ""), where)
    except RefusedError as e:
        said = "wait" if e.status == _THROTTLED else "wrong" if e.status < 500 else "away"
        return RedirectResponse(to_sign_in(said, where, wait=e.wait_s), 303)


async def _set_up(request: Request) -> Response:
    sent = await _fields(request)
    body: dict[str, Any] = {"link": sent.get("link", ""), "password": sent.get("password", "")}
    if sent.get("name"):
        body["name"] = sent["name"]
    try:
        made = await _nobody(request).ask("POST", "/setup", body)
        return await _begin(request, made.document["name"], body["password"], "")
    except RefusedError as e:
        said = {_UNAUTHORIZED: "gone", _TAKEN: "taken", _THROTTLED: "wait"}.get(e.status, "invalid")
        query = urlencode({"link": body["link"], "said": said})
        return RedirectResponse(f"{SET_UP}?{query}", 303)


async def _begin(request: Request, name: str, password: str, where: str) -> Response:
    begun = await _nobody(request).ask("POST", "/sessions", {"name": name, "password": password})
    response = RedirectResponse(where if _OURS.fullmatch(where) else f"{CONSOLE}/", 303)
    _keep_session(request, response, begun.document["token"])
    return response


def _nobody(request: Request) -> Rest:
    return Rest(request.app.state.rest, "", client_address(request))


def _keep_session(request: Request, response: Response, token: str) -> None:
    response.set_cookie(
        cookie_name(request),
        token,
        max_age=_LASTS_S,
        path="/",
        secure=request.app.state.secure,
        httponly=True,
        samesite="strict",
    )


async def _to_provider(request: Request) -> Response:
    """The flow waits in a cookie that comes back with the provider's answer, and with nothing else."""
    try:
        way = (await _nobody(request).ask("POST", "/oidc/flows")).document
    except RefusedError as e:
        return RedirectResponse(
            to_sign_in("wait" if e.status == _THROTTLED else "provider", wait=e.wait_s), 303
        )
    response = RedirectResponse(way["address"], 303)
    secure = request.app.state.secure
    response.set_cookie(
        _FLOW, way["flow"], max_age=_FLOW_S, path=CALLBACK, secure=secure, httponly=True, samesite="lax"
    )
    return response


async def _from_provider(request: Request) -> Response:
    query = request.query_params
    body = {name: query.get(name, "") for name in ("state", "code")}
    try:
        begun = await _nobody(request).ask(
            "POST", "/oidc/sessions", {**body, "flow": request.cookies.get(_FLOW, "")}
        )
    except RefusedError as e:
        said = {_THROTTLED: "wait", _FORBIDDEN: "stranger", _TAKEN: "stranger"}.get(e.status, "provider")
        return RedirectResponse(to_sign_in(said, wait=e.wait_s), 303)
    response = HTMLResponse(_ON)
    _keep_session(request, response, begun.document["token"])
    response.delete_cookie(_FLOW, path=CALLBACK)
    return response


async def _sign_out(request: Request) -> Response:
    said = "out"
    try:
        await rest_of(request).ask("DELETE", "/sessions/current")
    except RefusedError as e:
        if e.status != _UNAUTHORIZED:
            said = "away"  # the session goes on: so does the cookie
            return RedirectResponse(to_sign_in(said), 303)
    response = RedirectResponse(to_sign_in(said), 303)
    response.delete_cookie(cookie_name(request), path="/", secure=request.app.state.secure, httponly=True)
    return response


async def _fields(request: Request) -> dict[str, str]:
    text = (await request.body()).decode(errors="replace")
    try:
        given = parse_qs(text, keep_blank_values=True, max_num_fields=8)
    except ValueError:
        return {}
    return {name: values[0] for name, values in given.items()}
