"""The console's overview of 10,000 hosts in Chromium: from the request until all of it is drawn."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

from bench.manager.hosts import open_hosts
from bench.manager.running import ROOT, RunningManager, open_manager
from bench.manager.schedulers import open_schedulers
from bench.measure import median
from bench.place import Place
from bench.report import Result, Row, format_seconds
from demo.process import DemoError

HOSTS = int(os.environ.get("CAFS_BENCH_MANAGER_HOSTS", "10000"))
SCHEDULERS = 4
SETTLED_S = 45.0
"""For the rhythm of reports to be what the manager wants of so many."""
WITHIN_S = 1.5
_ELSEWHERE = ("nice", "-n", "10")
_PATIENCE_S = 300.0
_DRAWN = """of => {
    const canvases = [...document.querySelectorAll('.nicegui-echart canvas')];
    const painted = canvas => new Uint32Array(
        canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer
    ).some(pixel => pixel);
    const active = document.querySelector('[data-tile=active]')?.textContent ?? '0';
    return Number(active.replaceAll(',', '')) >= of.active
        && document.querySelectorAll('tbody tr').length >= of.rows
        && canvases.length === of.charts && canvases.every(painted);
}"""
"""As many hosts (schedulers count, too), a row of the table, and on each chart's canvas something."""
_CHARTS = 3


def run_case(place: Place) -> Result:
    with (
        open_manager(place.path) as manager,
        open_schedulers(place.path, manager.services, SCHEDULERS, _ELSEWHERE) as schedulers,
        open_hosts([each.address for each in schedulers], HOSTS, _ELSEWHERE),
        _signed_in(manager) as page,
    ):
        manager.await_hosts(HOSTS, _PATIENCE_S)
        place.say(f"{HOSTS} hosts are here")
        time.sleep(SETTLED_S)
        _look(page, manager)  # the browser keeps scripts and styles, as anybody's does
        again = [_look(page, manager) for _ in range(max(5, place.rounds))]
    took = median(again)
    return Result(
        "overview_page",
        f"The overview of {HOSTS:,} hosts",
        f"{HOSTS} peers live and report by way of four schedulers, as in the load of a manager above. In"
        " Debian's Chromium, somebody who is signed in asks for the console's overview: until the number of"
        " active hosts and the clusters stand there and all three charts are painted. Scripts and styles were"
        " fetched once before.",
        (
            Row("from the request until it is drawn", format_seconds(again), "", "",
                f"under {WITHIN_S} s", took < WITHIN_S),
        ),
        {"overview": again},
    )  # fmt: skip


@contextmanager
def _signed_in(manager: RunningManager) -> Iterator[Page]:
    program = shutil.which("chromium")
    if program is None:
        raise DemoError("Debian's package chromium is missing")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"{manager.site}/console/sign-in")
            page.wait_for_function("window.socket && window.socket.connected")
            page.get_by_label("Name").fill(ROOT.name)
            page.get_by_label("Password").fill(ROOT.password)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Clusters").wait_for()
            yield page
        finally:
            browser.close()


def _look(page: Page, manager: RunningManager) -> float:
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(f"{manager.site}/console/", wait_until="commit")
    wanted = {"active": HOSTS, "rows": 1, "charts": _CHARTS}
    page.wait_for_function(_DRAWN, arg=wanted, polling="raf", timeout=_PATIENCE_S * 1000)
    return time.perf_counter() - began
