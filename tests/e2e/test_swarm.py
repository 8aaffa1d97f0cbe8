"""A scheduler, a seed, peers and nginx as real processes: one copy leaves the origin, whoever dies."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nginx import Served, nginx
from tests.support.patience import PATIENCE_S
from tests.support.peers import Peer, Swarm, wait_for
from tests.support.program import run_cafs

BODY = os.urandom((24 << 20) + 12345)
"""24 whole pieces and a short one."""


@pytest.fixture
def slow_origin(short_tmp_path: Path) -> Iterator[Served]:
    """Each request comes at 2 MiB/s."""
    (short_tmp_path / "www").mkdir()
    (short_tmp_path / "www/f.bin").write_bytes(BODY)
    with nginx(short_tmp_path, more="limit_rate 2m;") as served:
        yield served


def fetch_everywhere(peers: list[Peer], url: str) -> list[subprocess.Popen[bytes]]:
    return [peer.getting(url, peer.run_dir / "out") for peer in peers]


def check(peers: list[Peer], downloads: list[subprocess.Popen[bytes]]) -> None:
    for peer, download in zip(peers, downloads, strict=True):
        _, err = download.communicate(timeout=PATIENCE_S)
        assert download.returncode == 0, err.decode() + peer.log.read_text()
        assert (peer.run_dir / "out").read_bytes() == BODY


def test_all_fetch_at_once_and_one_copy_leaves_the_origin(hosts: Swarm, origin: Served) -> None:
    hosts.scheduler()
    seed = hosts.peer("seed", seed=True)
    peers = [hosts.peer(f"p{n}") for n in range(3)]
    check(peers, fetch_everywhere(peers, f"{origin.url}/f.bin"))
    assert origin.sent_bytes("/f.bin") <= 1.05 * len(BODY)
    figures = [peer.status()["downloads"] for peer in (seed, *peers)]
    assert [f["wrong_pieces"] for f in figures] == [0] * 4
    assert sum(f["peer_bytes"] for f in figures) >= 3 * len(BODY) * 0.95
    # What the programs say of it.
    [task] = peers[0].tasks()
    shown = run_cafs("task", "explain", task["id"][:12], *peers[0].flags).out
    assert "from the source, " in shown
    assert "first by rendezvous" in shown
    top = run_cafs("top", "--once", *peers[0].flags).out
    assert task["id"][:12] in top
    assert "from origins 0 B" in top
    assert "100% from hosts: " in top
    assert "parents: 127.0.0.1:" in top
    # Once it is here, nobody is asked but the origin whether it is still the same.
    sent = origin.sent_bytes("/f.bin")
    check(peers, fetch_everywhere(peers, f"{origin.url}/f.bin"))
    assert origin.sent_bytes("/f.bin") - sent <= 3


def test_without_a_seed_peers_share_the_origin(hosts: Swarm, origin: Served) -> None:
    hosts.scheduler()
    peers = [hosts.peer(f"p{n}") for n in range(3)]
    check(peers, fetch_everywhere(peers, f"{origin.url}/f.bin"))
    # Whoever begins hears first what the others read; without sharing it would be three copies.
    assert origin.sent_bytes("/f.bin") <= 1.25 * len(BODY)


def test_without_a_scheduler_everybody_goes_straight(hosts: Swarm, origin: Served) -> None:
    hosts.schedulers.append("127.0.0.1:1")
    peers = [hosts.peer(f"p{n}") for n in range(2)]
    check(peers, fetch_everywhere(peers, f"{origin.url}/f.bin"))
    assert origin.sent_bytes("/f.bin") == 2 * len(BODY)


def test_a_scheduler_killed_under_way(hosts: Swarm, slow_origin: Served) -> None:
    scheduler = hosts.scheduler()
    hosts.peer("seed", seed=True)
    peers = [hosts.peer(f"p{n}") for n in range(3)]
    downloads = fetch_everywhere(peers, f"{slow_origin.url}/f.bin")
    wait_for(lambda: all(p.status()["downloads"]["peer_bytes"] > 2 << 20 for p in peers), "pieces")
    scheduler.kill()
    check(peers, downloads)
    assert slow_origin.sent_bytes("/f.bin") <= 1.5 * len(BODY)
    # Another one in its place hears of everything that is held.
    hosts.scheduler(int(hosts.schedulers[0].rpartition(":")[2]))
    late = hosts.peer("late")
    sent = slow_origin.sent_bytes("/f.bin")
    wait_for(lambda: all(peer.status()["schedulers"] for peer in peers), "the new scheduler")
    check([late], fetch_everywhere([late], f"{slow_origin.url}/f.bin"))
    assert slow_origin.sent_bytes("/f.bin") - sent < 3 << 20


def test_a_peer_and_the_seed_killed_under_way(hosts: Swarm, slow_origin: Served) -> None:
    hosts.scheduler(0, "--set=scheduler_alive_s=0.5")
    seed = hosts.peer("seed", seed=True)
    peers = [hosts.peer(f"p{n}") for n in range(3)]
    downloads = fetch_everywhere(peers, f"{slow_origin.url}/f.bin")
    wait_for(lambda: all(p.status()["downloads"]["peer_bytes"] > 2 << 20 for p in peers), "pieces")
    downloads[0].kill()
    downloads[0].communicate()
    peers[0].kill()
    seed.kill()
    check(peers[1:], downloads[1:])
    assert slow_origin.sent_bytes("/f.bin") <= 2 * len(BODY)


def test_the_origins_refusal_comes_whole(hosts: Swarm, origin: Served) -> None:
    hosts.scheduler()
    hosts.peer("seed", seed=True)
    peers = [hosts.peer(f"p{n}") for n in range(2)]
    for download in [peer.getting(f"{origin.url}/none.bin", peer.run_dir / "out") for peer in peers]:
        _, err = download.communicate(timeout=PATIENCE_S)
        assert download.returncode
        assert b"404" in err
