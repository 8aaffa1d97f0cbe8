"""The console in a real Chromium, before a real manager and peers. Screenshots are kept in .cache/console."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy.engine import URL

from tests.support.console import Console, Visitor, running_chromium, running_console, visiting
from tests.support.managed_peers import Peer, peers
from tests.support.manager import PASSWORD
from tests.support.manager_client import until
from tests.support.manager_hosts import host_row, write_hosts
from tests.support.openid import CLIENT, running_openid

ANY = {"If-Match": "*"}
EVERYWHERE = (
    "/", "/clusters", "/clusters/1", "/clusters/1/configuration", "/clusters/1/versions",
    "/clusters/1/members", "/hosts", "/users", "/users/1", "/audit", "/account",
)  # fmt: skip
HOSTILE = "<img src=x onerror=alert(1)>{{window.harm = 1}}"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """One for all tests that do not mind others' changes; ``root`` is there."""
    with running_console(tmp_path_factory.mktemp("console")) as running:
        running.set_up()
        yield running


@pytest.fixture
def visitor(chromium: Browser, console: Console) -> Iterator[Visitor]:
    with visiting(chromium, console, viewport={"width": 1280, "height": 800}) as somebody:
        yield somebody


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
            assert page.evaluate("document.body.classList.contains('body--dark')"), path
            visitor.shot(f"phone{path.replace('/', '-')}")
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
    assert all("Content Security Policy" in told for told in visitor.wrong)
    assert len(visitor.wrong) >= 3
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


def test_who_looks_only_cannot_save(visitor: Visitor) -> None:
    console, page = visitor.console, visitor.page
    console.person(console.sign_in(), "viewer", role="viewer")
    visitor.come_in("viewer")
    expect(page.get_by_role("link", name="Users")).to_have_count(0)
    visitor.open("/clusters/1/configuration")
    page.get_by_label("concurrent_uploads").fill("3")
    page.get_by_role("button", name="Look at the changes").click()
    page.get_by_text("What this changes").wait_for()
    expect(page.locator("[data-save]")).to_have_count(0)
    page.get_by_text("but not save").wait_for()
    visitor.open("/users")
    page.get_by_text("this needs the role admin everywhere").wait_for()


def test_two_who_edit_and_the_way_back(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        running_console(tmp_path_factory.mktemp("conflict")) as console,
        visiting(chromium, console) as visitor,
    ):
        admin, page = console.set_up(), visitor.page
        visitor.come_in()
        visitor.open("/clusters/1/configuration")
        page.get_by_label("concurrent_uploads").fill("-1")
        page.get_by_role("button", name="Look at the changes").click()
        expect(page.get_by_role("alert")).to_contain_text("peer.concurrent_uploads: must be a whole number")
        page.get_by_label("concurrent_uploads").fill("8")
        page.get_by_role("button", name="Look at the changes").click()
        page.locator("[data-save]").wait_for()
        theirs = {"document": {"peer": {"concurrent_uploads": 9}}}
        path = "/clusters/1/configuration"
        assert console.ask("PUT", path, admin, json=theirs, headers=ANY).status_code == 200
        page.locator("[data-save]").click()
        expect(page.get_by_role("alert")).to_contain_text("root made version 1 meanwhile")
        row = page.get_by_role("row", name="peer.concurrent_uploads")
        expect(row).to_contain_text("9")
        expect(row).to_contain_text("8")
        visitor.shot("conflict")
        page.get_by_role("button", name="Look at the changes").click()
        page.get_by_label("Why").fill("mine counts")
        page.locator("[data-save]").click()
        page.get_by_text("Version 2 is saved.").wait_for()

        visitor.open("/clusters/1/versions")
        page.get_by_text("mine counts").wait_for()
        page.get_by_role("button", name="Version 1").click()
        page.get_by_role("button", name="Have version 1 hold again").click()
        page.get_by_text("says 1 again").wait_for()
        visitor.shot("versions")
        held = console.ask("GET", path, admin).json()
        assert (held["version"], held["restored"], held["document"]) == (3, 1, theirs["document"])


def test_hosts_by_the_thousand(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_console(tmp_path_factory.mktemp("many")) as console, visiting(chromium, console) as visitor:
        console.set_up()
        rows = [host_row(n, hostname=f"host-{n:04}", active=n % 2 == 0, running=None) for n in range(3000)]
        rows.append(host_row(3000, hostname=HOSTILE, kind="seed", cluster_id=2, refused="cannot be"))
        write_hosts(URL.create("sqlite", database=str(console.database)), rows)
        page = visitor.page
        visitor.come_in()
        expect(page.locator("[data-tile=inactive]")).to_have_text("1,500")
        visitor.shot("overview")
        visitor.open("/hosts")
        expect(page.get_by_text("1-50 of 3001")).to_be_visible()
        page.get_by_role("button", name="Next page").click()
        expect(page.get_by_text("51-100 of 3001")).to_be_visible()
        expect(page.get_by_role("link", name="host-0049")).to_be_visible()
        page.get_by_label("Name or address").fill("host-12")
        expect(page.get_by_text("1-50 of 100")).to_be_visible()
        page.get_by_role("columnheader", name="Host").click()
        expect(page.get_by_role("row").nth(1)).to_contain_text("host-1299")
        page.get_by_label("Name or address").fill("onerror")
        expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()
        expect(page.get_by_text("refuses a newer one")).to_be_visible()
        page.get_by_role("link", name=HOSTILE).click()
        expect(page.locator("[data-field='Why it refuses a newer one']")).to_have_text("cannot be")


def test_a_token_is_shown_once_and_the_audit_has_it(visitor: Visitor) -> None:
    page = visitor.page
    visitor.come_in()
    visitor.open("/account")
    page.get_by_label("What it is for").fill(HOSTILE)
    page.get_by_label("Scopes").click()
    page.get_by_role("option", name="clusters:read").click()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Make").click()
    secret = page.get_by_label("The secret").input_value()
    assert visitor.console.ask("GET", "/clusters", secret).status_code == 200
    page.get_by_role("button", name="Done").click()
    visitor.open("/account")
    assert secret not in page.content()
    page.get_by_role("button", name=f"Revoke {HOSTILE}").click()
    page.get_by_role("button", name="Yes").click()
    until(lambda: visitor.console.ask("GET", "/clusters", secret).status_code == 401)
    visitor.open("/audit")
    expect(page.get_by_role("row", name="token.delete").first).to_contain_text(HOSTILE)


def test_users_and_members(visitor: Visitor) -> None:
    page = visitor.page
    visitor.come_in()
    visitor.open("/users")
    page.get_by_role("button", name="New user").click()
    page.get_by_label("Name:").fill("newcomer")
    page.get_by_role("button", name="Make").click()
    link = page.get_by_label("The secret").input_value()
    assert link.startswith(f"{visitor.console.site}/setup?link=")
    page.get_by_role("button", name="Done").click()
    visitor.open("/clusters/1/members")
    page.get_by_label("Name", exact=True).fill("newcomer")
    page.get_by_role("button", name="Give").click()
    expect(page.get_by_role("combobox", name="Role of newcomer")).to_be_visible()
    page.context.clear_cookies()
    page.goto(link)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Clusters").wait_for()
    expect(page.get_by_role("row")).to_have_count(2)  # the head, and the one cluster


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
