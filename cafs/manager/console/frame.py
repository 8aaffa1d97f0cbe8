"""What every page has: who is signed in, the way around, light and dark, and how a refusal is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import Client, ui
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from cafs import __version__
from cafs.manager.console.keep_place import keep_place
from cafs.manager.console.rest import RefusedError, Rest
from cafs.manager.console.session import DO_SIGN_OUT, rest_of, to_sign_in
from cafs.manager.http.paths import CONSOLE

_MOST_PAGES, _MOST_STRANGERS = 500, 300
"""Open at once, of who is signed in and of others: each is kept here as long as its browser is there, or a
minute if that never comes back for what the page needs. Fewer than the server has connections."""
_BUILT_WITHIN_S = 20.0
"""More than schedulers, which some pages have asked, may take to answer."""
ENTRANCE = ("/sign-in", "/setup")
"""Pages for who is not signed in."""
_RANKS = {"viewer": 1, "operator": 2, "admin": 3}
_NAVIGATION = (
    ("/", "Overview", "space_dashboard", None),
    ("/statistics", "Statistics", "show_chart", None),
    ("/clusters", "Clusters", "hub", None),
    ("/hosts", "Hosts", "dns", None),
    ("/images", "Images", "layers", "viewer"),
    ("/jobs", "Jobs", "task_alt", None),
    ("/users", "Users", "group", "admin"),
    ("/audit", "Audit", "history", "admin"),
    ("/account", "Your account", "key", None),
)
_THEME = "cafs-theme"
_THEMES = {"": (None, "brightness_auto", "as the system has it"), "dark": (True, "dark_mode", "dark"),
           "light": (False, "light_mode", "light")}  # fmt: skip
_UNAUTHORIZED = 401
_STYLE = """
body { --cafs-quiet: #5f6b76; } body.body--dark { --cafs-quiet: #a7b0ba; background: #12161b; }
.body--dark .text-primary { --q-primary: #90caf9; } .body--dark .text-negative { --q-negative: #ff8a80; }
.q-tab { opacity: 1; }
.cafs-quiet { color: var(--cafs-quiet); }
.cafs-page { width: 100%; max-width: 1280px; margin: 0 auto; padding: 16px; display: flex;
  flex-direction: column; gap: 16px; }
.cafs-page a { color: inherit; text-decoration: underline; text-underline-offset: 2px; }
.cafs-page .q-tabs a { text-decoration: none; }
.cafs-page > .q-btn { align-self: flex-start; }
.nicegui-content { padding: 0; }
.cafs-added { color: #1a7f37; } .cafs-gone { color: #b42318; }
.body--dark .cafs-added { color: #56d364; } .body--dark .cafs-gone { color: #ff7b72; }
:focus-visible { outline: 2px solid var(--q-primary) !important; outline-offset: 2px; }
.body--dark :focus-visible, header :focus-visible { outline-color: #fff !important; }
.cafs-tiles, .cafs-grid, .cafs-filters { display: grid; gap: 12px; width: 100%; }
.cafs-tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
.cafs-grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); }
.cafs-filters { grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); align-items: end; }
.cafs-line { display: grid; grid-template-columns: minmax(110px, 1fr) 2fr; gap: 12px; width: 100%; }
.cafs-entrance { width: 100%; max-width: 400px; margin: 10vh auto 0; padding: 16px; }
.cafs-form { display: flex; flex-direction: column; gap: 16px; width: 100%; }
.cafs-value { overflow-wrap: anywhere; white-space: pre-wrap; }
.cafs-skip { position: absolute; left: -999px; }
.cafs-skip:focus { left: 8px; top: 8px; z-index: 9999; padding: 4px 8px; background: #fff; color: #0d47a1; }
.cafs-sort { border: 0; padding: 2px; background: none; color: inherit; font: inherit; cursor: pointer; }
.q-table--grid thead tr { display: flex; flex-wrap: wrap; align-items: center; height: auto; }
.q-table--grid thead tr::before { content: "Sort by"; padding: 7px 16px; }
.q-table--grid thead th { height: auto; border: 0; }
.q-table--grid thead th:not(.sortable) { display: none; }
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A page that somebody has open."""

    rest: Rest
    request: Request
    me: dict[str, Any]
    """``GET /me``."""

    def part(self, name: str) -> str:
        """Of the address."""
        return str(self.request.path_params[name])

    def may(self, role: str, cluster_id: int | None = None) -> bool:
        """Whether it is worth showing: REST decides."""
        held = [self.me["role"], self.me["clusters"].get(str(cluster_id))]
        return max(_RANKS.get(one or "", 0) for one in held) >= _RANKS[role]

    async def attempt(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """Do it, and tell if REST refuses it."""
        try:
            await work(*arguments)
        except RefusedError as e:
            self.tell(e)

    def does(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> Callable[..., Awaitable[None]]:
        """The same, to be called by a button."""
        return partial(self.attempt, work, *arguments)

    def tell(self, error: RefusedError) -> None:
        """Of a refusal; whose session is over has to sign in again."""
        if error.status == _UNAUTHORIZED:
            go(to_sign_in("expired", here(self.request)))
        else:
            ui.notify(str(error), type="negative", multi_line=True, close_button="Close", timeout=15_000)


Build = Callable[[Seen], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Page:
    """One of the console's; ``path`` is below ``/console``."""

    path: str
    title: str
    build: Build


def register(page: Page) -> None:
    """Have it served."""

    async def show(request: Request) -> Response | None:
        if full := refuse_crowd(strangers=False):
            return full
        rest = rest_of(request)
        if not rest.token:
            return RedirectResponse(to_sign_in("", here(request)), 303)
        try:
            seen = Seen(rest, request, await rest.get("/me"))
            _show_frame(seen, page)
            with ui.element("div").classes("cafs-page").props("id=main tabindex=-1"):
                await page.build(seen)
        except RefusedError as e:
            if e.status == _UNAUTHORIZED:
                return RedirectResponse(to_sign_in("expired", here(request)), 303)
            with ui.element("div").classes("cafs-page"):
                heading(page.title)
                ui.label(str(e)).classes("text-negative")
        return None

    serve(page.path, page.title, show)


def serve(path: str, title: str, show: Callable[[Request], Awaitable[Response | None]]) -> None:
    """Have ``show`` build a page, or answer with something else.

    Then nobody comes back for the page that was begun: kept, it would be one of those that are open for a
    minute, and who only ever asks would keep out others.
    """

    async def shown(request: Request) -> Response | None:
        answer = await show(request)
        if answer is not None:
            ui.context.client.delete()
        return answer

    ui.page(path, title=f"{title} · CAFS", response_timeout=_BUILT_WITHIN_S)(shown)


def refuse_crowd(*, strangers: bool) -> Response | None:
    """Whether more pages are open than may be, of ``ENTRANCE`` or of all others."""
    opened = sum((client.page.path in ENTRANCE) is strangers for client in Client.instances.values())
    if opened <= (_MOST_STRANGERS if strangers else _MOST_PAGES):
        return None
    return PlainTextResponse("too many pages are open: try again in a minute\n", 503)


def here(request: Request) -> str:
    """Where somebody is, with what was chosen there: he comes back to it when he has signed in."""
    query = request.url.query
    return f"{request.url.path}?{query}" if query else request.url.path


def heading(text: str, level: int = 1) -> ui.label:
    """Of a page (1), or of a part of it (2)."""
    label = ui.label(text).classes("text-h5" if level == 1 else "text-h6")
    return label.props(f"role=heading aria-level={level}")


def go(address: str) -> None:
    """Send the browser to another page of ours."""
    ui.navigate.to(address.removeprefix(CONSOLE))  # the library puts it back


def link(text: str, address: str) -> ui.link:
    """To another page of ours."""
    return ui.link(text, address.removeprefix(CONSOLE))


def dress(request: Request) -> ui.dark_mode:
    """Colours, as was chosen before in this browser."""
    ui.add_css(_STYLE)
    ui.colors(primary="#1565c0", secondary="#455a64", accent="#00838f")
    return ui.dark_mode(_THEMES[_theme(request)][0])


def _theme(request: Request) -> str:
    chosen = request.cookies.get(_THEME, "")
    return chosen if chosen in _THEMES else ""


def _show_frame(seen: Seen, page: Page) -> None:
    dark = dress(seen.request)
    keep_place()
    with ui.header().classes("items-center no-wrap q-py-xs"):
        ui.link("Skip to content", "#main").classes("cafs-skip")
        menu = ui.button(icon="menu").props("flat round color=white aria-label=Menu")
        ui.label("CAFS").classes("text-h6")
        ui.space()
        show_theme(seen.request, dark)
        with ui.element("form").props(f"method=post action={DO_SIGN_OUT}"):
            ui.button("Sign out", icon="logout").props("flat no-caps type=submit color=white")
    # Not None, which would have the browser asked; one that left before it could answer would be an error.
    drawer = ui.left_drawer(value=False).props("show-if-above bordered width=220 aria-label=Navigation")
    menu.on_click(drawer.toggle)
    with drawer, ui.element("nav"), ui.list().props("role=none").classes("full-width"):
        for path, title, icon, role in _NAVIGATION:
            if role is None or seen.may(role):
                is_here = page.path == path or (path != "/" and page.path.startswith(f"{path}/"))
                _show_way(f"{CONSOLE}{path}", title, icon, is_here=is_here)
        ui.separator()
        ui.label(f"{seen.me['name']} · {seen.me['role'] or 'in single clusters'}").classes(
            "cafs-quiet q-pa-md"
        )
        ui.label(f"CAFS {__version__}").classes("cafs-quiet q-px-md text-caption")


def _show_way(address: str, title: str, icon: str, *, is_here: bool) -> None:
    with ui.item().props(f'href="{address}" clickable role=link') as item:
        if is_here:
            item.props("active aria-current=page")
        with ui.item_section().props("avatar"):
            ui.icon(icon)
        with ui.item_section():
            ui.item_label(title)


def show_theme(request: Request, dark: ui.dark_mode) -> None:
    """A button that goes from the system's way to dark, to light, and back."""
    names = list(_THEMES)
    state = {"theme": _theme(request)}

    def turn() -> None:
        state["theme"] = names[(names.index(state["theme"]) + 1) % len(names)]
        dark.value = _THEMES[state["theme"]][0]
        kept = f"{_THEME}={state['theme']}; path={CONSOLE}; max-age=31536000; samesite=strict"
        ui.run_javascript(f"document.cookie = '{kept}'")
        show()

    def show() -> None:
        _, icon, told = _THEMES[state["theme"]]
        button.props(f'icon={icon} aria-label="Colours: {told}"')

    button = ui.button(on_click=turn).props("flat round color=white")
    show()
