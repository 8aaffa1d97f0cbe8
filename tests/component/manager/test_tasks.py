"""A swarm of real processes, as the manager tells of it, and as the console draws it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from playwright.sync_api import expect

from tests.support.console import Console, running_chromium, running_console, visiting
from tests.support.manager_client import until
from tests.support.nginx import nginx
from tests.support.peers import Peer, Process, swarm

BODY = os.urandom((8 << 20) + 12345)
"""8 whole pieces and a short one."""
_PEERS = 3


def test_who_fed_whom_and_why(short_tmp_path: Path) -> None:
    (short_tmp_path / "www").mkdir()
    (short_tmp_path / "www/f.bin").write_bytes(BODY)
    with (
        running_console(short_tmp_path / "m") as console,
        swarm(short_tmp_path) as hosts,
        nginx(short_tmp_path) as origin,
        running_chromium() as chromium,
    ):
        admin = console.set_up()
        assert console.ask("GET", "/clusters/1/tasks", admin).status_code == 404  # no scheduler is here
        obeys = f"--set=managers={console.services}"
        scheduler = hosts.scheduler(0, obeys, f"--set=cache_dir={short_tmp_path}/s")
        seed = hosts.peer("seed", obeys, seed=True)
        peers = [hosts.peer(f"p{number}", obeys) for number in range(_PEERS)]
        until(lambda: len(console.ask("GET", "/hosts?active=true", admin).json()["items"]) == _PEERS + 2)
        _fetch(peers, f"{origin.url}/f.bin")
        task_id = _check_tasks(console, admin)
        _check_swarm(console, admin, task_id, seed)
        with visiting(chromium, console, viewport={"width": 1280, "height": 900}) as visitor:
            page = visitor.page
            visitor.come_in()
            visitor.open("/clusters/1/tasks")
            page.get_by_role("link", name="f.bin").click()
            expect(page.locator("[data-summary]")).to_contain_text(f"{_PEERS + 1} have all")
            expect(page.get_by_role("row", name="the source")).to_be_visible()
            page.locator(".nicegui-echart canvas").first.wait_for()
            page.get_by_text("first by rendezvous").first.wait_for()
            page.get_by_text("hosts looked at").first.click()
            expect(page.get_by_role("columnheader", name="Score")).to_be_visible()
            visitor.shot("swarm")
            until(lambda: _downloads(console, admin, task_id) == _PEERS + 1)
            visitor.open("/statistics")
            page.get_by_role("link", name="f.bin").click()  # by its address, as the scheduler knows it
            expect(page.locator("[data-total=downloads]")).to_have_text(f"{_PEERS + 1} / 0")
            page.get_by_role("link", name="Its swarm in").click()
            expect(page.locator("[data-summary]")).to_be_visible()
            expect(page.locator("[data-total=downloads]")).to_have_text(f"{_PEERS + 1} / 0")
        _check_silence(console, admin, task_id, scheduler)


def _fetch(peers: list[Peer], url: str) -> None:
    downloads = [peer.getting(url, peer.run_dir / "out") for peer in peers]
    for download in downloads:
        _, err = download.communicate(timeout=90)
        assert download.returncode == 0, err.decode()


def _check_tasks(console: Console, admin: str) -> str:
    whole = [(len(BODY), 9, _PEERS + 1)]
    until(lambda: [one[1:] for one in _tasks(console, admin)] == whole)
    (task,) = _tasks(console, admin)
    return task[0]


def _tasks(console: Console, admin: str) -> list[tuple[str, int, int, int]]:
    """Id, bytes, pieces, and how many have all of it; none while the scheduler is too busy to answer."""
    items = console.ask("GET", "/clusters/1/tasks", admin).json().get("items", [])
    return [(task["id"], task["content_bytes"], task["pieces"], task["complete"]) for task in items]


def _downloads(console: Console, admin: str, task_id: str) -> int:
    told = console.ask("GET", f"/statistics/totals?task_id={task_id}", admin).json()
    return int(told["values"]["downloads_succeeded"])


def _check_swarm(console: Console, admin: str, task_id: str, seed: Peer) -> None:
    told = console.ask("GET", f"/clusters/1/tasks/{task_id}/swarm", admin).json()
    assert [host["complete"] for host in told["hosts"]] == [True] * (_PEERS + 1)
    assert {host["id"] for host in told["hosts"] if host["kind"] == "seed"} == {seed.status()["host_id"]}
    got = dict.fromkeys((host["id"] for host in told["hosts"]), 0)
    for feed in told["feeds"]:
        got[feed["child"]] += feed["pieces"]
    assert set(got.values()) == {9}  # whoever gave them, each host got each piece once
    why = console.ask("GET", f"/clusters/1/tasks/{task_id}/explanation", admin).json()
    assert any(one["what"] == "seed" for one in why["decisions"])
    assert any(candidate["chosen"] for one in why["decisions"] for candidate in one["candidates"])
    for unknown in ("swarm", "explanation"):
        assert console.ask("GET", f"/clusters/1/tasks/{'0' * 64}/{unknown}", admin).status_code == 404


def _check_silence(console: Console, admin: str, task_id: str, scheduler: Process) -> None:
    """A scheduler that hangs costs the question its deadline, and nothing else."""
    scheduler.process.send_signal(signal.SIGSTOP)
    try:
        answer = console.ask("GET", f"/clusters/1/tasks/{task_id}/swarm", admin)
        assert answer.status_code == 503
        assert "do not answer" in answer.json()["detail"]
        (silent,) = console.ask("GET", "/clusters/1/tasks", admin).json()["silent"].values()
        assert silent == "deadline exceeded"
    finally:
        scheduler.process.send_signal(signal.SIGCONT)
