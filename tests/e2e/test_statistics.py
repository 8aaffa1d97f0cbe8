"""Manager, scheduler, seed and peers as real processes: the statistics say where the bytes came from."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx2

from tests.support.manager import PASSWORD
from tests.support.nginx import Served
from tests.support.patience import PATIENCE_S
from tests.support.peers import Swarm, wait_for

BODY = os.urandom((6 << 20) + 12345)


def manager_of(hosts: Swarm) -> tuple[str, httpx2.Client]:
    """Where services find it, and a client of its REST that is signed in as an administrator."""
    manager = hosts.manager()
    [link] = re.findall(r"setup\?link=(\S+)", manager.log.read_text())
    client = httpx2.Client(base_url=f"{manager.site}/api/v1", trust_env=False, timeout=PATIENCE_S)
    hosts.processes.callback(client.close)
    whom = {"name": "root", "password": PASSWORD}
    assert client.post("/setup", json={"link": link, **whom}).status_code == 201
    client.headers["Authorization"] = f"Bearer {client.post('/sessions', json=whom).json()['token']}"
    return manager.services, client


def totals(client: httpx2.Client, **query: Any) -> dict[str, Any]:
    answer = client.get("/statistics/totals", params=query)
    assert answer.status_code == 200, answer.text
    values: dict[str, Any] = answer.json()["values"]
    return values


def got(download: subprocess.Popen[bytes], out: Path) -> None:
    _, err = download.communicate(timeout=PATIENCE_S)
    assert download.returncode == 0, err.decode()
    assert out.read_bytes() == BODY


def test_where_the_bytes_of_a_download_came_from(hosts: Swarm, origin: Served) -> None:
    services, client = manager_of(hosts)
    where = f"--set=managers={services}"
    hosts.scheduler(0, where)
    seed = hosts.peer("seed", where, seed=True)
    peers = [hosts.peer(f"p{number}", where) for number in range(2)]
    for peer in peers:
        got(
            peer.getting(f"{origin.url}/f.bin", peer.run_dir / "out", "--application=models"),
            peer.run_dir / "out",
        )
    status = [peer.status() for peer in (seed, *peers)]
    given = sum(each["downloads"]["seed_bytes"] for each in status)
    read = sum(each["downloads"]["source_bytes"] for each in status)
    assert read >= len(BODY)

    def of_all() -> list[int]:
        return [totals(client)[f"{name}_bytes"] for name in ("origin", "seed", "peer")]

    wanted = [read, given, sum(each["downloads"]["peer_bytes"] for each in status) - given]
    wait_for(lambda: of_all() == wanted, f"{wanted}")
    assert wanted[0] <= 1.05 * len(BODY)
    assert sum(wanted) >= 3 * len(BODY)
    assert totals(client, cluster_id=2)["origin_bytes"] == status[0]["downloads"]["source_bytes"]
    assert (
        totals(client, host_id=status[0]["host_id"])["origin_bytes"] == status[0]["downloads"]["source_bytes"]
    )

    # Once more, from what is here; and what is counted is not counted again by whoever restarts.
    got(
        peers[0].getting(f"{origin.url}/f.bin", peers[0].run_dir / "again", "--application=models"),
        peers[0].run_dir / "again",
    )
    peers[0].end()
    hosts.peer("p0", where)
    wait_for(lambda: totals(client)["local_bytes"] == len(BODY), "local bytes")
    [task] = peers[1].tasks()
    for query in ({"task_id": task["id"]}, {"application": "models"}):
        found = totals(client, **query)
        assert found["local_bytes"] == len(BODY)
        assert found["first_bytes"] == 3
    assert of_all() == wanted
    wait_for(lambda: totals(client)["tasks"] == 3, "the restarted peer's task")
    found = totals(client)
    assert found["hit_ratio"] == 1 - read / (sum(wanted) + len(BODY))
    assert (found["downloads_failed"], found["registrations"] > 0) == (0, True)
    assert found["first_byte_p99_ms"] > 0
