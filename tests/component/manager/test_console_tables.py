"""Tables of the console, in a real Chromium: by keyboard, on a phone, and with more than a page of rows."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.engine import URL

from tests.support.console import Console, Visitor, running_console, visiting
from tests.support.manager import PASSWORD
from tests.support.manager_client import until
from tests.support.manager_hosts import host_row, write_hosts
from tests.support.patience import PATIENCE_S

SEED_JOBS = 130


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """One with hosts and jobs in it."""
    with running_console(tmp_path_factory.mktemp("tables")) as running:
        admin = running.set_up()
        rows = [host_row(n, hostname=f"host-{n:02}", address=f"10.9.0.{99 - n}:7000") for n in range(60)]
        write_hosts(URL.create("sqlite", database=str(running.database)), rows)
        for number in range(SEED_JOBS):
            make_job(running, admin, number)
        yield running


def make_job(console: Console, admin: str, number: int) -> None:
    job = {"kind": "preheat_file", "cluster_id": 2, "spec": {"url": f"http://example.org/{number}."}}
    assert console.ask("POST", "/jobs", admin, json=job).status_code == 201


def focused(page: Page, name: str) -> None:
    page.wait_for_function(f"document.activeElement.innerText === {name!r}")


def test_by_the_keyboard_and_the_place_is_kept(visitor: Visitor) -> None:
    page, console = visitor.page, visitor.console
    visitor.come_in()
    visitor.open("/hosts")
    expect(page.get_by_role("row").nth(1)).to_contain_text("host-00")
    page.get_by_label("CAFS", exact=True).focus()
    for heading in ("Host", "Kind", "Address"):
        page.keyboard.press("Tab")
        focused(page, heading)
    page.keyboard.press("Enter")
    expect(page.get_by_role("row").nth(1)).to_contain_text("host-59")
    focused(page, "Address")
    page.keyboard.press("Enter")
    expect(page.get_by_role("row").nth(1)).to_contain_text("host-00")

    visitor.open("/jobs")
    page.get_by_role("link", name="129", exact=True).focus()
    make_job(console, console.sign_in(), 999)
    page.get_by_role("row", name="example.org/999.").wait_for()  # all rows are drawn anew for it
    focused(page, "129")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/console/jobs/129$"))


def test_on_a_phone_tables_are_sorted_too(chromium: Browser, console: Console) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark", "has_touch": True}
    with visiting(chromium, console, **phone) as visitor:
        page = visitor.page
        visitor.come_in()
        visitor.open("/hosts")
        expect(page.get_by_role("link", name="host-").first).to_have_text("host-00")
        page.get_by_role("button", name="Address").tap()
        expect(page.get_by_role("link", name="host-").first).to_have_text("host-59")
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
        visitor.shot("phone-sorted")


def test_older_jobs_are_shown_when_asked_for(visitor: Visitor) -> None:
    page = visitor.page
    visitor.come_in()
    visitor.open("/jobs")
    page.get_by_text("1-50 of 100").wait_for()
    page.get_by_role("button", name="Older ones").click()
    page.get_by_text(re.compile("1-50 of 13[0-9]")).wait_for()
    expect(page.get_by_role("button", name="Older ones")).to_have_count(0)


def test_hosts_of_a_job_are_sorted_by_their_bytes(visitor: Visitor) -> None:
    page, console = visitor.page, visitor.console
    admin = console.sign_in()
    job = {"kind": "preheat_file", "cluster_id": 1, "spec": {"url": "http://example.org/large"}}
    number = console.ask("POST", "/jobs", admin, json=job).json()["id"]
    until(lambda: sum(console.ask("GET", f"/jobs/{number}", admin).json()["hosts"].values()) == 60)
    with closing(sqlite3.connect(console.database, timeout=PATIENCE_S)) as database, database:
        for host, done_mb in ((1, 9), (2, 10), (3, 100)):
            database.execute(
                "UPDATE job_target SET done_bytes = ?, total_bytes = 200000000"
                " WHERE job_id = ? AND host_id = ?",
                (done_mb * 10**6, number, f"{host:032x}"),
            )
    visitor.come_in()
    visitor.open(f"/jobs/{number}")
    page.get_by_role("button", name="Bytes").click()
    page.get_by_role("button", name="Bytes").click()
    expect(page.get_by_role("row", name="of 200.0 MB")).to_contain_text(["100.0 of", "10.0 of", "9.0 of"])


def test_who_signs_in_again_comes_back_to_what_he_had_chosen(visitor: Visitor) -> None:
    page = visitor.page
    visitor.open("/hosts?text=host-17&active=true")
    page.get_by_label("Name").fill("root")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile(r"/console/hosts\?text=host-17&active=true$"))
    page.get_by_text("1-1 of 1").wait_for()
