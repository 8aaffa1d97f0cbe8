"""The two pages for who is not signed in. Their forms are sent as any form is, and need no socket."""

from __future__ import annotations

from fastapi import Request
from nicegui import ui
from starlette.responses import RedirectResponse, Response

from cafs.manager.console.frame import ENTRANCE, dress, heading, link, refuse_crowd, serve
from cafs.manager.console.rest import RefusedError, Rest
from cafs.manager.console.session import DO_OPENID, DO_SET_UP, DO_SIGN_IN, rest_of
from cafs.manager.http.parts import client_address
from cafs.manager.http.paths import CONSOLE
from cafs.manager.users.passwords import LEAST

_SAID = {
    "wrong": "No such name and password.",
    "expired": "Your session is over: sign in again.",
    "out": "You are signed out.",
    "away": "The manager cannot do this just now: try again.",
    "provider": "The OpenID provider does not let you in just now: try again.",
    "stranger": "The OpenID provider knows you, but nobody has let you in here: ask an administrator.",
    "gone": "The link is none of ours, or was used, or is too old. An administrator can make another one.",
    "taken": "The name is taken: choose another one.",
    "invalid": "Names have lower-case letters, digits, and . _ @ - within; "
    f"passwords {LEAST} characters or more.",
}
_MOST_WAIT_DIGITS = 5


def register() -> None:
    """Have both served."""
    sign_in, set_up = ENTRANCE
    serve(sign_in, "Sign in", _show_sign_in)
    serve(set_up, "Set up", _show_set_up)


async def _show_sign_in(request: Request) -> Response | None:
    if full := refuse_crowd(strangers=True):
        return full
    rest = rest_of(request)
    if rest.token and not request.query_params.get("said"):
        try:
            await rest.get("/me")
        except RefusedError:
            pass
        else:
            return RedirectResponse(f"{CONSOLE}/", 303)
    with _card(request, "Sign in", DO_SIGN_IN):
        _say(request)
        ui.input("Name").props("name=name autocomplete=username autofocus required outlined").classes(
            "full-width"
        )
        password = ui.input("Password", password=True).classes("full-width")
        password.props("name=password autocomplete=current-password required outlined")
        _keep("next", request)
        ui.button("Sign in").props("type=submit no-caps").classes("full-width")
        if (await rest.get("/oidc"))["offered"]:
            way = ui.button("Sign in by OpenID", icon="login").classes("full-width")
            way.props(f"href={DO_OPENID} outline no-caps")
    return None


async def _show_set_up(request: Request) -> Response | None:
    if full := refuse_crowd(strangers=True):
        return full
    nobody = Rest(request.app.state.rest, "", client_address(request))
    try:
        asked = {"link": request.query_params.get("link", "")[:128]}
        name = (await nobody.ask("POST", "/setup/link", asked)).document["name"]
    except RefusedError as e:
        with _card(request, "Set up", DO_SET_UP):
            ui.label(_SAID["gone"] if e.status < 500 else _SAID["away"])
            link("Sign in", f"{CONSOLE}/sign-in")
        return None
    with _card(request, "Set up", DO_SET_UP):
        _say(request)
        if name is None:
            ui.label("Choose name and password of an administrator.")
            chosen = ui.input("Name").props("name=name autocomplete=username autofocus required outlined")
            chosen.props('hint="Lower-case letters, digits, and . _ @ - within"').classes("full-width")
        else:
            ui.label(f"Choose a password for {name}.")
        password = ui.input("Password", password=True).classes("full-width")
        password.props(f"name=password autocomplete=new-password minlength={LEAST} required outlined")
        password.props(f'hint="{LEAST} characters or more"')
        _keep("link", request)
        ui.button("Set up").props("type=submit no-caps").classes("full-width")
    return None


def _card(request: Request, title: str, target: str) -> ui.element:
    dress(request)
    with ui.element("div").classes("cafs-entrance"), ui.card().classes("full-width"):
        heading("CAFS manager")
        ui.label(title).classes("cafs-quiet")
        return ui.element("form").props(f"method=post action={target}").classes("cafs-form")


def _say(request: Request) -> None:
    said, wait = request.query_params.get("said", ""), request.query_params.get("wait", "")
    text = _SAID.get(said, "")
    if said == "wait":
        known = wait.isascii() and wait.isdecimal() and len(wait) < _MOST_WAIT_DIGITS
        text = f"Too many wrong guesses: wait {wait + ' s' if known else 'a minute'}."
    if text:
        ui.label(text).props("role=alert").classes("cafs-gone" if said != "out" else "cafs-quiet")


def _keep(name: str, request: Request) -> None:
    """Sent along as it came; who uses it checks it."""
    value = request.query_params.get(name, "")[:1000]
    hidden = ui.element("input").props(f"type=hidden name={name}")
    hidden.props.update({"value": value})
