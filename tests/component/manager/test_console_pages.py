"""The console's pages in a real Chromium: what they show and change. Screenshots: .cache/console."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy.engine import URL

from cafs.core.digest import Digest
from cafs.core.profile import Profile, encode_profile
from cafs.proto import manager_pb2
from tests.support.console import Visitor, running_console, visiting
from tests.support.manager import PASSWORD
from tests.support.manager_client import ServiceStream, channel_to, until
from tests.support.manager_hosts import host_row, write_hosts

ANY = {"If-Match": "*"}
HOSTILE = "<img src=x onerror=alert(1)>{{window.harm = 1}}"


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


def test_what_starts_of_images_read(visitor: Visitor) -> None:
    page, console = visitor.page, visitor.console
    layers = tuple(Digest(f"sha256:{digit * 64}") for digit in "123")
    chunks = tuple((number % 2, number.to_bytes(8, "big")) for number in range(50))
    starts = {
        b"\7": ("app", Profile(layers[:2], chunks)),
        b"\x08": ("base", Profile(layers[1:], chunks[:20])),
    }
    admin = console.sign_in()
    with channel_to(int(console.services.rpartition(":")[2])) as channel:
        stream = ServiceStream(channel)
        stream.hello()
        for byte, (name, start) in starts.items():
            image = byte * 32
            stream.say(start_offer=manager_pb2.StartOffer(image=image))
            assert stream.hear("start_wanted").image == image
            told = {"name": f"registry/{name}:v1", "frame_bytes": 5 << 20, "profile": encode_profile(start)}
            stream.say(start_report=manager_pb2.StartReport(image=image, **told))
        until(lambda: len(console.ask("GET", "/profiles", admin).json()["items"]) == len(starts))
    visitor.come_in()
    visitor.open("/images")
    expect(page.get_by_role("row", name="registry/app:v1").get_by_role("cell").nth(6)).to_have_text("1")
    page.get_by_role("link", name="registry/app:v1").click()
    page.get_by_text("50 chunks, 5.0 MiB compressed").wait_for()
    page.locator(".nicegui-echart canvas").first.wait_for()
    expect(page.get_by_role("row", name=layers[1])).to_contain_text("25")
    expect(page.locator("[data-shared]")).to_contain_text("20 of the 50 chunks that its starts read (40%")
    shared = page.get_by_role("row", name="registry/base:v1").get_by_role("cell")
    expect(shared).to_have_text(["registry/base:v1", f"sha256:{'08' * 6}", "1", "20", "40", "2"])
    visitor.shot("image")
    page.get_by_role("button", name="Forget it").click()
    page.get_by_role("button", name="Yes").click()
    expect(page).to_have_url(re.compile("/console/images$"))
    (left,) = console.ask("GET", "/profiles", admin).json()["items"]
    assert (left["name"], left["shared_layers"]) == ("registry/base:v1", 0)


def test_statistics_lead_to_a_host_an_application_and_a_task(visitor: Visitor) -> None:
    page, console, task = visitor.page, visitor.console, "1" * 64
    admin = console.sign_in()
    counted = manager_pb2.Counts(origin_bytes=3 << 20, peer_bytes=1 << 20, downloads_succeeded=7)
    part = manager_pb2.Counts(origin_bytes=2 << 20, downloads_succeeded=5)
    levels = manager_pb2.Levels(store_bytes=1 << 30, store_quota_bytes=2 << 30)
    with channel_to(int(console.services.rpartition(":")[2])) as channel:
        stream = ServiceStream(channel, "e" * 32)
        stream.hello(hostname="busy")
        parts = {
            kind: [manager_pb2.Part(name=name, counts=part)]
            for kind, name in (("tasks", task), ("applications", HOSTILE))
        }
        report = manager_pb2.Report(life="f" * 32, number=1, all=counted, levels=levels, **parts)
        stream.say(report=report)
        stream.hear("counted")
    visitor.come_in()
    visitor.open("/statistics")
    expect(page.locator(".nicegui-echart canvas")).to_have_count(6)
    expect(page.locator("[data-total=hit_ratio]")).to_have_text("25.0%")
    page.get_by_role("button", name="Day", exact=True).click()
    for name in ("busy", HOSTILE):
        expect(page.get_by_role("link", name=name)).to_have_attribute("href", re.compile("hours=24$"))
    visitor.shot("statistics")

    page.get_by_role("link", name=HOSTILE).click()
    page.get_by_role("heading", name=f"Application {HOSTILE}").wait_for()
    expect(page.locator("[data-total=downloads]")).to_have_text("5 / 0")
    expect(page.locator("[data-total=upload_bytes]")).to_have_count(0)  # what is sent is counted of hosts
    expect(page.locator(".nicegui-echart canvas")).to_have_count(5)
    expect(page.get_by_role("button", name="90 days")).to_be_visible()
    visitor.ready()
    page.get_by_label("Cluster", exact=True).click()
    page.get_by_role("option", name="default · seed").click()
    expect(page).to_have_url(re.compile("cluster_id=2"))
    expect(page.locator("[data-total=downloads]")).to_have_text("0 / 0")
    expect(page.get_by_role("button", name="Day", exact=True)).to_have_attribute("aria-pressed", "true")

    page.get_by_role("link", name="Statistics of everything").click()
    page.get_by_role("link", name=task[:16]).click()
    page.get_by_role("heading", name=f"Task {task}").wait_for()
    page.get_by_role("link", name="Its swarm in").click()
    page.get_by_text("no scheduler of this cluster is here").wait_for()
    expect(page.locator("[data-total=downloads]")).to_have_text("5 / 0")

    visitor.open("/clusters/1")
    page.get_by_role("link", name="Its statistics").click()
    page.get_by_role("link", name="busy").click()
    page.get_by_role("heading", name="busy").wait_for()
    expect(page.locator("[data-total=downloads]")).to_have_text("7 / 0")
    expect(page.get_by_role("img", name="Store use").locator("canvas")).to_be_visible()
    visitor.shot("host-statistics")
    assert console.ask("GET", "/statistics/totals", admin).json()["clusters"] == [1]


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
