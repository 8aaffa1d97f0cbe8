"""A peer whose disk is full: its clients get their content, other hosts what it has, and it recovers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from tests.support.http import ask
from tests.support.nginx import Served, nginx
from tests.support.patience import PATIENCE_S
from tests.support.peers import Peer, Swarm, wait_for
from tests.support.program import run_cafs

MIB = 1 << 20
FILES = {"small": os.urandom(3 * MIB + 5), "big": os.urandom(9 * MIB + 7), "more": os.urandom(9 * MIB + 9)}
DISK_MIB = 32


@pytest.fixture
def origin(short_tmp_path: Path) -> Iterator[Served]:
    (short_tmp_path / "www").mkdir()
    for name, body in FILES.items():
        (short_tmp_path / "www" / name).write_bytes(body)
    with nginx(short_tmp_path) as served:
        yield served


@pytest.fixture
def small_disk(short_tmp_path: Path) -> Iterator[Path]:
    """The cache of the peer ``full``."""
    disk = short_tmp_path / "full/c"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "cafs-test-disk", disk], check=True)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def full(small_disk: Path, hosts: Swarm, origin: Served) -> Peer:
    """Has ``small``, and no room for any other."""
    hosts.scheduler()
    peer = hosts.peer("full", f"--set=proxy_allow={origin.host}", "--set=proxy_rules=p2p .*")
    assert "by P2P" in get(peer, origin, "small")
    fill(small_disk)
    return peer


def fill(disk: Path) -> None:
    with (disk / "ballast").open("ab", buffering=0) as file, suppress(OSError):  # that no space is left
        while file.write(bytes(4096)):
            pass


def get(peer: Peer, origin: Served, name: str) -> str:
    """The whole file, by ``cafs get``, onto another disk; what it says."""
    target = peer.run_dir.parent.parent / f"{name}.out"
    target.unlink(missing_ok=True)
    said = run_cafs("get", f"{origin.url}/{name}", "-o", target, *peer.flags)
    assert target.read_bytes() == FILES[name]
    return said.out


def set_limits(peer: Peer, **limits: int) -> None:
    assert trio.run(ask, peer.socket, "PATCH", "/v1/limits", json.dumps(limits).encode()).status == 200


def held_whole(peer: Peer) -> set[str]:
    return {task["url"].rpartition("/")[2] for task in peer.tasks() if task["complete"]}


def test_a_full_disk_costs_nobody_his_content(
    full: Peer, hosts: Swarm, origin: Served, small_disk: Path
) -> None:
    proxy = hosts.proxy(full)
    assert "straight" in get(full, origin, "big")
    assert proxy.curl(f"{origin.url}/big").stdout == FILES["big"]
    other = hosts.peer("other")
    before = origin.sent_bytes("/small")
    assert "by P2P" in get(other, origin, "small")
    if "small" in held_whole(full):  # it may have gone to make room
        assert other.status()["downloads"]["peer_bytes"] == len(FILES["small"])
        assert origin.sent_bytes("/small") <= before + 1  # it may be asked whether that is what it was

    (small_disk / "ballast").unlink()
    assert "by P2P" in get(full, origin, "big")
    assert proxy.curl(f"{origin.url}/big").stdout == FILES["big"]
    assert "big" in held_whole(full)
    assert "Traceback" not in full.log.read_text() + proxy.log.read_text()


def test_a_disk_that_fills_up_under_a_download(
    hosts: Swarm, origin: Served, small_disk: Path, short_tmp_path: Path
) -> None:
    """What came stays right; the client goes on without the peer, and others with it."""
    hosts.scheduler()
    peer = hosts.peer("full")
    set_limits(peer, source_bytes_per_s=2 * MIB)
    target = short_tmp_path / "out"
    download = peer.getting(f"{origin.url}/big", target)
    wait_for(lambda: any(task["pieces_here"] for task in peer.tasks()), "the first piece")
    fill(small_disk)
    set_limits(peer, source_bytes_per_s=0)
    _, err = download.communicate(timeout=PATIENCE_S)
    assert download.returncode == 0, err.decode() + peer.log.read_text()
    assert target.read_bytes() == FILES["big"]
    assert held_whole(peer) == set()
    (small_disk / "ballast").unlink()
    assert "by P2P" in get(peer, origin, "more")

    # What there was of it, and of what was evicted for it, is gone or right.
    peer.end()
    again = hosts.peer("full")
    assert get(again, origin, "big")
    assert get(hosts.peer("other"), origin, "more")
    assert again.status()["downloads"]["unforeseen"] == 0
    assert "Traceback" not in peer.log.read_text()
