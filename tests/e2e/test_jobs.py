"""Jobs of a manager, done by real peers: what was preheated is there, and the origin hears of it once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.manager_process import ManagerProcess, manager_process
from tests.support.nginx import Served
from tests.support.patience import PATIENCE_S
from tests.support.peers import Peer, Swarm, wait_for
from tests.support.program import run_cafs

BODY = os.urandom((24 << 20) + 12345)


@pytest.fixture
def manager(short_tmp_path: Path) -> Iterator[ManagerProcess]:
    with manager_process(short_tmp_path) as running:
        yield running


def attached(hosts: Swarm, manager: ManagerProcess, name: str, *more: str, seed: bool = False) -> Peer:
    return hosts.peer(name, f"--set=managers=127.0.0.1:{manager.services}", *more, seed=seed)


def all_here(manager: ManagerProcess, count: int) -> None:
    wait_for(
        lambda: len(manager.call("GET", "/hosts?active=true")["items"]) == count,
        f"{count} hosts at the manager",
    )


def preheat(manager: ManagerProcess, url: str, **more: Any) -> int:
    body = {"kind": "preheat_file", "cluster_id": 1, "spec": {"url": url}, **more}
    return int(manager.call("POST", "/jobs", 201, json=body)["id"])


def parts_of(manager: ManagerProcess, kind: str, spec: Any) -> Any:
    """Of such a job of all peers, once it has ended."""
    body = {"kind": kind, "cluster_id": 1, "spec": spec}
    job = manager.ended(manager.call("POST", "/jobs", 201, json=body)["id"])
    assert job["state"] == "succeeded", job
    return manager.call("GET", f"/jobs/{job['id']}/hosts")["items"]


def get_everywhere(peers: list[Peer], url: str) -> None:
    for peer in peers:
        out = peer.run_dir / "out"
        download = peer.getting(url, out)
        _, err = download.communicate(timeout=PATIENCE_S)
        assert download.returncode == 0, err.decode() + peer.log.read_text()
        assert out.read_bytes() == BODY


def test_what_is_preheated_is_not_fetched_again(
    hosts: Swarm, origin: Served, manager: ManagerProcess
) -> None:
    hosts.scheduler(0, f"--set=managers=127.0.0.1:{manager.services}")
    attached(hosts, manager, "seed", seed=True)
    peers = [attached(hosts, manager, f"p{n}") for n in range(2)]
    all_here(manager, 4)
    url = f"{origin.url}/f.bin"
    environment = manager.for_commands("jobs:read", "jobs:write")
    made = run_cafs("job", "create", "file", url, "--follow", "--json", env=environment)
    job = made.json
    assert (job["state"], job["hosts"]["succeeded"]) == ("succeeded", 2), job
    assert "job 1: succeeded" in made.err
    assert (job["done_bytes"], job["total_bytes"]) == (2 * len(BODY), 2 * len(BODY))
    sent = origin.sent_bytes("/f.bin")
    assert len(BODY) <= sent <= 1.05 * len(BODY)
    get_everywhere(peers, url)
    assert origin.sent_bytes("/f.bin") - sent <= 2  # is it still the same?
    for part in parts_of(manager, "sync", {}):
        [held] = part["result"]["held"]
        assert (held["url"], held["bytes"], held["complete"]) == (url, len(BODY), True)
    parts_of(manager, "gc", {"idle_s": 3600})
    assert [len(peer.tasks()) for peer in peers] == [1, 1]  # neither idle nor too much
    assert [part["result"] for part in parts_of(manager, "delete", {"url": url})] == [{"tasks": 1}] * 2
    assert [peer.tasks() for peer in peers] == [[], []]
    run_cafs("job", "create", "file", url, "--cluster=2", "--hosts=one", "--follow", env=environment)
    listed = run_cafs("job", "ls", "--cluster=2", env=environment).out
    assert re.fullmatch(rf" +5  succeeded  preheat_file  {url}  1 succeeded, 24.0 MiB\n", listed)


def test_a_manager_killed_under_way(hosts: Swarm, origin: Served, manager: ManagerProcess) -> None:
    hosts.scheduler()
    attached(hosts, manager, "seed", "--set=source_rate_bytes=4MiB", seed=True)
    peers = [attached(hosts, manager, f"p{n}") for n in range(2)]
    all_here(manager, 3)
    url = f"{origin.url}/f.bin"
    number = preheat(manager, url, concurrency=1)
    seen = wait_for(lambda: job if (job := manager.job(number))["done_bytes"] else None, "the first bytes")
    assert seen["ended_at"] is None
    manager.kill()
    manager.start()
    job = manager.ended(number)
    assert (job["state"], job["hosts"]["succeeded"]) == ("succeeded", 2), job
    sent = origin.sent_bytes("/f.bin")
    get_everywhere(peers, url)
    assert origin.sent_bytes("/f.bin") - sent <= 2


def test_a_scheduler_killed_under_way(hosts: Swarm, origin: Served, manager: ManagerProcess) -> None:
    """By whom hosts reach the manager, too."""
    obeys = f"--set=managers=127.0.0.1:{manager.services}"
    scheduler = hosts.scheduler(0, obeys)
    attached(hosts, manager, "seed", "--set=source_rate_bytes=4MiB", seed=True)
    peers = [attached(hosts, manager, f"p{n}") for n in range(2)]
    all_here(manager, 4)
    url = f"{origin.url}/f.bin"
    number = preheat(manager, url, concurrency=1)
    wait_for(lambda: manager.job(number)["done_bytes"], "the first bytes")
    scheduler.kill()
    hosts.scheduler(int(hosts.schedulers[0].rpartition(":")[2]), obeys)
    job = manager.ended(number)
    assert (job["state"], job["hosts"]["succeeded"]) == ("succeeded", 2), job
    # The seed may be at it still, for peers have read of the source themselves meanwhile.
    for part in parts_of(manager, "sync", {}):
        [held] = part["result"]["held"]
        assert (held["url"], held["bytes"], held["complete"]) == (url, len(BODY), True)
    get_everywhere(peers, url)
