"""Jobs in the console, in a real Chromium: one is made there, hosts do it, and it is watched to its end."""

from __future__ import annotations

import os
import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.component.manager.test_named_schedulers import origin
from tests.support.console import running_console, visiting
from tests.support.managed_peers import Peer, peers

BODY = os.urandom(6 << 20)


def test_a_preheat_is_made_and_watched_and_what_fails_is_told(
    chromium: Browser, short_tmp_path: Path
) -> None:
    folder = short_tmp_path
    with (
        origin(BODY) as (address, asked),
        running_console(folder / "m") as console,
        visiting(chromium, console) as visitor,
    ):
        console.person(console.set_up(), "viewer", role="viewer")
        page = visitor.page
        peer = Peer(folder / "p", f"--set=managers={console.services}")
        with peers(peer):
            visitor.come_in()
            expect(page.locator("[data-tile=active]")).to_have_text("1")
            visitor.open("/jobs")
            page.get_by_role("button", name="New job").click()
            page.get_by_label("What", exact=True).click()
            page.get_by_role("option", name="A file, on hosts before it is read").click()
            page.get_by_label("Address: https://…").fill("nonsense")
            page.get_by_role("button", name="Make").click()
            page.get_by_text("body.preheat_file.spec.url").wait_for()
            page.get_by_label("Address: https://…").fill(address)
            visitor.shot("new-job")
            page.get_by_role("button", name="Make").click()
            page.get_by_role("heading", name=f"Preheat {address}").wait_for()
            status = page.get_by_role("status").filter(has_text="Job 1 of root")
            expect(status).to_contain_text("succeeded · 1 succeeded · 6.3 of 6.3 MB")
            assert asked
            expect(page.get_by_role("row", name=re.compile("succeeded.*MB"))).to_have_count(1)
            expect(page.get_by_role("button", name="Cancel it")).to_have_count(0)
            visitor.shot("job")

            gone = {
                "kind": "preheat_file",
                "cluster_id": 1,
                "spec": {"url": "http://127.0.0.1:1/gone"},
                "retries": 0,
            }
            assert console.ask("POST", "/jobs", console.sign_in(), json=gone).status_code == 201
            visitor.open("/jobs")
            page.get_by_role("row", name=re.compile("gone")).get_by_role("link").click()
            expect(page.get_by_role("status").filter(has_text="Job 2")).to_contain_text("failed · 1 failed")
            page.get_by_role("button", name="Do again what failed").wait_for()
            visitor.shot("job-failed")
