"""Coming in to the console, and what holds on all its pages, in a real Chromium."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.support.console import Console, Visitor, running_console, visiting
from tests.support.managed_peers import Peer, peers
from tests.support.manager import PASSWORD
from tests.support.manager_client import until
from tests.support.openid import CLIENT, running_openid
from tests.support.patience import PATIENCE_S

EVERYWHERE = (
    "/", "/clusters", "/clusters/1", "/clusters/1/configuration", "/clusters/1/versions",
    "/clusters/1/members", "/clusters/1/tasks", "/hosts", "/images", "/jobs", "/statistics", "/users",
    "/users/1", "/audit", "/account",
)  # fmt: skip

_LIGHTNESS = """((what, of) => {
    const shown = document.querySelector(what);
    if (!shown) return NaN;
    const parts = getComputedStyle(shown)[of].match(/[0-9]+/g).slice(0, 3);
    return parts.reduce((sum, part) => sum + Number(part), 0);
})"""
"""0 to 765; not a number, and neither more nor less than any, as long as nothing such is shown."""


def test_from_the_printed_link_to_a_limit_that_a_peer_has_taken(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("first")
    with running_console(folder / "m") as console, visiting(chromium, console) as visitor:
        page = visitor.page
        page.goto(console.setup_link)
        page.get_by_label("Name").fill("root")
        page.get_by_label("Password").fill(PASSWORD)
        visitor.shot("set-up")
        page.get_by_role("button", name="Set up").click()
        page.get_by_role("heading", name="Clusters").wait_for()
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

        peer = Peer(folder / "p", f"--set=managers={console.services}")
        with peers(peer):
            expect(page.locator("[data-tile=active]")).to_have_text("1")  # it is seen without being asked for
            visitor.open("/clusters/1/configuration")
            page.get_by_label("concurrent_uploads").fill("17")
            page.get_by_role("button", name="Look at the changes").click()
            row = page.get_by_role("row", name="peer.concurrent_uploads")
            expect(row).to_contain_text("not said")
            expect(row).to_contain_text("17")
            visitor.shot("changes")
            page.locator("[data-save]").click()
            page.get_by_text("Version 1 is saved.").wait_for()

            visitor.open("/hosts")
            page.get_by_role("row", name="peer").get_by_role("link").click()
            expect(page.locator("[data-field='Configuration it runs']")).to_have_text("1")
            visitor.shot("host")
            until(lambda: peer.limit("concurrent_uploads") == 17)
        expect(page.locator("[data-field=State]")).to_have_text("inactive")

        page.context.clear_cookies()
        page.goto(console.setup_link)
        page.get_by_text("The link is none of ours, or was used").wait_for()


def test_nobody_comes_in_by_a_wrong_password_or_stays_when_the_session_is_over(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/hosts")
    expect(page).to_have_url(re.compile("/console/sign-in"))
    visitor.sign_in("root", "wrong horse battery")
    expect(page.get_by_role("alert")).to_have_text("No such name and password.")
    visitor.shot("wrong-password")
    visitor.come_in()
    visitor.open("/account")
    token = page.context.cookies()[0]["value"]
    assert visitor.console.ask("DELETE", "/sessions/current", token).status_code == 204
    page.get_by_role("button", name="Make").click()
    expect(page.get_by_role("alert")).to_have_text("Your session is over: sign in again.")
    visitor.come_in()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("You are signed out.").wait_for()
    assert page.context.cookies() == []


def test_who_is_sent_on_has_no_page_open(console: Console) -> None:
    """More such requests than pages may be open."""
    asked = [console.rest.get("/console/").headers["location"] for _ in range(510)]
    assert set(asked) == {"/console/sign-in?next=%2Fconsole%2F"}
    signed_in = console.rest.get("/console/", headers={"Cookie": f"cafs={console.sign_in()}"})
    assert signed_in.status_code == 200


def test_all_by_the_keyboard(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/sign-in?next=/console/account")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("root")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Tokens for programs").wait_for()
    visitor.ready()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            str(page.evaluate("document.activeElement.innerText || document.activeElement.ariaLabel"))
        )
        if reached[-1].strip().endswith("Hosts"):
            break
    else:
        pytest.fail(f"only {reached} were reached")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/console/hosts$"))


def test_on_a_phone_and_in_the_dark(chromium: Browser, console: Console) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True}
    with visiting(chromium, console, **phone) as visitor:
        page = visitor.page
        visitor.come_in()
        for path in EVERYWHERE:
            visitor.open(path)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= 360, path
            page.wait_for_function("document.body.classList.contains('body--dark')")
            visitor.shot(f"phone{path.replace('/', '-')}")
        visitor.open("/clusters/1/configuration")
        page.get_by_role("tab", name="Document").tap()
        page.wait_for_function(f"{_LIGHTNESS}('.cm-editor', 'backgroundColor') < 200")
        page.wait_for_function(f"{_LIGHTNESS}('.q-tab.text-primary', 'color') > 500")  # on nearly black
        page.get_by_role("button", name="Menu").tap()
        page.get_by_role("link", name="Overview").tap()
        expect(page).to_have_url(re.compile("/console/$"))


def test_light_and_dark_are_chosen_and_kept(visitor: Visitor) -> None:
    page = visitor.page
    visitor.come_in()
    is_dark = "document.body.classList.contains('body--dark')"
    assert not page.evaluate(is_dark)
    page.get_by_role("button", name="Colours: as the system has it").click()
    page.get_by_role("button", name="Colours: dark").wait_for()
    visitor.open("/clusters")
    page.wait_for_function(is_dark)
    visitor.shot("clusters-dark")
    page.get_by_role("button", name="Colours: dark").click()
    page.get_by_role("button", name="Colours: light").wait_for()
    page.wait_for_function(f"!{is_dark}")


def test_nothing_is_asked_of_anybody_else(visitor: Visitor) -> None:
    """What the pages ask for is checked by ``visiting``; here: that the policy lets nothing else through."""
    page = visitor.page
    visitor.come_in()
    for path in EVERYWHERE:
        answer = page.goto(f"{visitor.console.site}/console{path}")
        assert answer is not None
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert not re.search(r"https?:|\*|'unsafe-inline'[^;]*; img", policy.partition("style-src")[0])
        visitor.ready()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.5)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}"
        page.evaluate(f"document.body.append(Object.assign(new Image(), {{src: '{address}/a.png'}}))")
        assert page.evaluate(f"fetch('{address}/b').then(() => 'got it', () => 'refused')") == "refused"
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.harm = 1\" id=bad>x</p>')"
        )
        page.evaluate("document.getElementById('bad').click()")
        assert page.evaluate("window.harm") is None
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    until(lambda: page.evaluate("true") and len(visitor.wrong) >= 3)  # the page tells of them when asked
    assert all("Content Security Policy" in told for told in visitor.wrong)
    visitor.wrong.clear()
    visitor.asked.clear()


def test_other_sites_pages_are_refused(console: Console) -> None:
    form = {"name": "root", "password": PASSWORD}
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = console.rest.post("/console/do/sign-in", data=form, headers=headers)
        assert (answer.status_code, answer.headers.get("set-cookie")) == (403, None)
    own = console.rest.post("/console/do/sign-in", data=form, headers={"Origin": console.site})
    assert own.status_code == 303
    cookie = own.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    token = cookie.partition("=")[2].partition(";")[0]
    assert (
        console.ask("GET", "/me", headers={"Cookie": f"cafs={token}"}).status_code == 401
    )  # REST knows none
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": "http://evil.example",
    }  # fmt: skip
    refused = console.rest.get("/console/_nicegui_ws/socket.io/?EIO=4&transport=websocket", headers=upgrade)
    assert refused.status_code == 403


def test_where_signing_in_leads_is_ours(console: Console) -> None:
    for where in (
        "//evil.example",
        "https://evil.example/",
        "/console/../x\r\nX: y",
        "/console//evil.example:80@x",
    ):
        form = {"name": "root", "password": PASSWORD, "next": where}
        answer = console.rest.post("/console/do/sign-in", data=form)
        assert answer.headers["location"] == "/console/"
    form["next"] = "/console/hosts?kind=peer"
    answer = console.rest.post("/console/do/sign-in", data=form)
    assert answer.headers["location"] == "/console/hosts?kind=peer"


def test_by_an_openid_provider(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_openid() as provider:
        provider.person("7", preferred_username="alice", groups=["sre"])
        provider.person("8", preferred_username="mallory", groups=["others"])
        settings = {"issuer": provider.issuer, "client": CLIENT, "secret": "s3cret", "roles": "sre=operator"}
        flags = [f"--set=manager_oidc_{name}={value}" for name, value in settings.items()]
        with (
            running_console(tmp_path_factory.mktemp("openid"), *flags) as console,
            visiting(chromium, console) as visitor,
        ):
            page = visitor.page
            for subject in ("8", "7"):
                visitor.open("/sign-in")
                page.get_by_role("link", name="Sign in by OpenID").click()
                page.locator("input[name=sub]").fill(subject)
                page.get_by_role("button", name="Authorize").click()
                if subject == "8":
                    expect(page.get_by_role("alert")).to_contain_text("nobody has let you in here")
            page.get_by_role("heading", name="Clusters").wait_for()
            page.get_by_text("alice · operator").wait_for()
            (session,) = [one for one in page.context.cookies() if one["name"] == "cafs"]
            assert (session["httpOnly"], session["sameSite"]) == (True, "Strict")
            visitor.wrong.clear()  # the provider's page wants a style sheet from elsewhere
            visitor.asked.clear()


def test_a_socket_where_none_is_gets_a_refusal(console: Console) -> None:
    """Its log, which must not speak of mistakes, is looked at when it ends."""
    place = urlsplit(console.site)
    knock = (
        b"GET /api/v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with socket.create_connection((place.hostname or "", place.port or 0), PATIENCE_S) as connection:
        connection.sendall(knock)
        assert connection.makefile("rb").readline().split()[1] == b"403"
