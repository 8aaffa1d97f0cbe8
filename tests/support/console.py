"""The manager's console in a real Chromium: the program, the browser, and what it asked for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from cafs.manager.http.paths import API
from tests.support.logs import OF_STRANGERS
from tests.support.manager import PASSWORD
from tests.support.patience import PATIENCE_S
from tests.support.peers import wait_for
from tests.support.program import ROOT, cafs_command

SCREENSHOTS = ROOT / ".cache" / "console"


@dataclass
class Console:
    """``cafs manager`` as a process."""

    site: str
    services: str
    setup_link: str
    database: Path
    rest: httpx2.Client

    def ask(self, method: str, path: str, token: str = "", **arguments: Any) -> httpx2.Response:
        """One request of REST."""
        headers = {**arguments.pop("headers", {}), **({"Authorization": f"Bearer {token}"} if token else {})}
        return self.rest.request(method, API + path, headers=headers, **arguments)

    def sign_in(self, name: str = "root", password: str = PASSWORD) -> str:
        """A token of REST's."""
        return str(self.ask("POST", "/sessions", json={"name": name, "password": password}).json()["token"])

    def set_up(self) -> str:
        """The first administrator, ``root``; a token."""
        body = {"link": self.setup_link.partition("link=")[2], "name": "root", "password": PASSWORD}
        assert self.ask("POST", "/setup", json=body).status_code == 201
        return self.sign_in()

    def person(self, admin: str, name: str, **fields: Any) -> None:
        """Somebody else, with the same password."""
        made = self.ask("POST", "/users", admin, json={"name": name, **fields}).json()
        body = {"link": made["link"].partition("link=")[2], "password": PASSWORD}
        assert self.ask("POST", "/setup", json=body).status_code == 201


@contextmanager
def running_console(folder: Path, *arguments: str) -> Iterator[Console]:
    """While the context lasts. What it warns of is a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "manager.log"
    command = cafs_command(
        "manager", "--rest", "127.0.0.1:0", "--listen", "127.0.0.1:0", f"--set=cache_dir={folder}", *arguments
    )
    with log.open("wb") as out, subprocess.Popen(command, stderr=out) as process:
        try:
            wait_for(lambda: process.poll() is not None or "REST on " in log.read_text(), "a manager")
            said = log.read_text()
            site = _found(r"REST on (\S+)", said)
            with httpx2.Client(base_url=site, timeout=30, trust_env=False) as rest:
                database = folder / "manager" / "manager.db"
                yield Console(
                    site,
                    _found(r"services on (\S+)", said),
                    _found(r"(\S+setup\?link=\S+)", said),
                    database,
                    rest,
                )
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
    said = [line for line in log.read_text().splitlines() if not OF_STRANGERS.search(line)]
    assert not [line for line in said if re.search("WARNING|ERROR|Traceback", line)], log.read_text()


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Debian's; while the context lasts."""
    program = shutil.which("chromium")
    assert program is not None, "Debian's package chromium is missing"
    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visitor:
    """One window of one person: what it asked for, and what went wrong in it."""

    page: Page
    console: Console
    asked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> None:
        """A page of the console, by its path below ``/console``; waits until it can be used."""
        self.page.goto(f"{self.console.site}/console{path}")
        self.ready()

    def ready(self) -> None:
        """Wait until what is clicked is heard of."""
        self.page.wait_for_function("window.socket && window.socket.connected")

    def sign_in(self, name: str = "root", password: str = PASSWORD) -> None:
        """By the form."""
        self.open("/sign-in")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()

    def come_in(self, name: str = "root") -> None:
        """By the form, to the overview."""
        self.sign_in(name)
        self.page.get_by_role("heading", name="Clusters").wait_for()
        self.ready()

    def shot(self, name: str) -> None:
        """Keep what it looks like."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("scrollTo(0, 0)")
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True, animations="disabled")


@contextmanager
def visiting(browser: Browser, console: Console, **options: Any) -> Iterator[Visitor]:
    """A window of its own, without cookies. Errors in it, and requests to elsewhere, fail the test."""
    with browser.new_context(**options) as context:
        context.set_default_timeout(PATIENCE_S * 1000)
        page = context.new_page()
        visitor = Visitor(page, console)

        def asked(request: Request) -> None:
            visitor.asked.append(request.url)

        page.on("request", asked)
        page.on("websocket", lambda socket: visitor.asked.append(socket.url))
        page.on("pageerror", lambda error: visitor.wrong.append(str(error)))
        page.on("console", lambda told: visitor.wrong.append(told.text) if told.type == "error" else None)
        yield visitor
        assert not visitor.wrong
        here = urlsplit(console.site).netloc
        elsewhere = [
            url for url in visitor.asked if urlsplit(url).netloc != here and not url.startswith("data:")
        ]
        assert not elsewhere
